"""While Redis is away, each limit does what it says, at a bounded price."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from time import perf_counter
from typing import Any

import pytest
from pydantic import SecretStr

from backstay.breaker import Breaker
from backstay.cache._counters import MemoryCounters
from backstay.cache._redis_counters import RedisCounters
from backstay.cache.limits import Limits, Quota, Verdict, WhenUnavailable, open_limits
from backstay.settings import CacheSettings, Settings

TWO_PER_MINUTE = Quota.of(2, timedelta(minutes=1))
PATIENT = timedelta(seconds=10)  # this machine may halt, and Redis is to answer in time all the same
SHORT_SECONDS = 0.05


class Seconds:
    """A clock for the breaker."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
async def limits(own_redis: Any, seconds: Seconds) -> AsyncIterator[Limits]:
    shared = RedisCounters(own_redis.url, prefix="limit:")
    yield Limits(shared, local=MemoryCounters(), budget=PATIENT, breaker=Breaker(clock=seconds))
    await shared.close()


async def _hit(limits: Limits, times: int, when_unavailable: WhenUnavailable = "local") -> list[bool | None]:
    verdicts = [
        await limits.hit("key", TWO_PER_MINUTE, when_unavailable=when_unavailable) for _ in range(times)
    ]
    return [None if verdict is None else verdict.is_admitted for verdict in verdicts]


async def test_without_redis_a_local_limit_counts_for_itself(limits: Limits, own_redis: Any) -> None:
    assert await _hit(limits, 3) == [True, True, False]
    own_redis.stop()

    assert await _hit(limits, 3) == [True, True, False]


async def test_without_redis_an_open_limit_admits_everything_uncounted(
    limits: Limits, own_redis: Any
) -> None:
    own_redis.stop()

    assert await _hit(limits, 3, "open") == [None, None, None]


async def test_a_redis_that_hangs_costs_its_budget_five_times_and_then_nothing(
    limits: Limits, own_redis: Any
) -> None:
    await _hit(limits, 1)
    own_redis.hang()
    limits._budget_seconds = SHORT_SECONDS
    began = perf_counter()
    await _hit(limits, 5)
    while_closed = perf_counter() - began

    asked = 0
    shared = limits._shared
    assert shared is not None
    ask = shared.hit

    async def count(key: str, quota: Quota) -> Verdict:
        nonlocal asked
        asked += 1
        return await ask(key, quota)

    shared.hit = count  # type: ignore[method-assign]  # a spy
    await _hit(limits, 100)
    own_redis.go_on()

    assert while_closed >= 5 * SHORT_SECONDS
    assert asked == 0


async def test_a_burst_on_a_redis_that_hangs_waits_once(limits: Limits, own_redis: Any) -> None:
    own_redis.hang()
    limits._budget_seconds = SHORT_SECONDS
    asked: list[str] = []
    shared = limits._shared
    assert shared is not None
    ask = shared.hit

    async def count(key: str, quota: Quota) -> Verdict:
        asked.append(key)
        return await ask(key, quota)

    shared.hit = count  # type: ignore[method-assign]  # a spy
    admitted = await asyncio.gather(*(_hit(limits, 1) for _ in range(200)))
    own_redis.go_on()

    assert admitted.count([True]) == 2
    assert len(asked) <= 16 + 4, "after the fifth failure those who waited for their turn ask no more"


async def test_redis_counts_again_once_it_answers(limits: Limits, own_redis: Any, seconds: Seconds) -> None:
    own_redis.stop()
    await _hit(limits, 8)
    await own_redis.start()
    assert await _hit(limits, 1) == [False], "the breaker is still open, and this process counts"

    seconds.now += 2

    assert await _hit(limits, 3) == [True, True, False]


async def test_going_away_and_coming_back_are_one_line_each(
    limits: Limits, own_redis: Any, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backstay.cache")
    own_redis.stop()
    await _hit(limits, 20)
    await own_redis.start()
    seconds.now += 2
    await _hit(limits, 20)

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "redis://" not in caplog.text


async def test_a_cancelled_hit_lets_the_next_one_try_an_open_breaker(
    limits: Limits, own_redis: Any, seconds: Seconds
) -> None:
    own_redis.hang()
    limits._budget_seconds = SHORT_SECONDS
    await _hit(limits, 5)
    limits._budget_seconds = PATIENT.total_seconds()
    seconds.now += 2
    probe = asyncio.create_task(_hit(limits, 1))
    await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    own_redis.go_on()

    assert await _hit(limits, 1) == [True]
    assert limits._breaker.is_closed


async def test_services_do_not_count_for_each_other(redis_url: str, prefix: str) -> None:
    cache = CacheSettings(
        url=SecretStr(redis_url), prefix=prefix.rstrip(":"), operation_timeout=timedelta(seconds=10)
    )
    settings = Settings(cache=cache)
    other = Settings(cache=cache.model_copy(update={"prefix": cache.prefix + ".other"}))
    async with open_limits(settings) as limits, open_limits(settings) as twin, open_limits(other) as apart:
        assert limits.is_shared
        assert await _hit(limits, 2) == [True, True]
        assert await _hit(twin, 1) == [False]
        assert await _hit(apart, 1) == [True]

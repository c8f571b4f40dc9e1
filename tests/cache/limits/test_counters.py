"""Hits are counted alike in memory and in Redis, and never one too many in any span of time."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from backstay.cache._counters import Counters, MemoryCounters, Quota
from backstay.cache._redis_counters import RedisCounters

SECOND = 1_000_000
FIVE_PER_MINUTE = Quota.of(5, timedelta(minutes=1))


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_us = 1_764_000_000 * SECOND  # as long as real ones, which floats must still tell apart

    def __call__(self) -> int:
        return self.now_us

    def move(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def redis_counters(redis_url: str, prefix: str, clock: Clock) -> AsyncIterator[RedisCounters]:
    counters = RedisCounters(redis_url, prefix=prefix, clock=clock)
    yield counters
    await counters.close()


@pytest.fixture(params=["memory", "redis"])
def counters(request: pytest.FixtureRequest, clock: Clock) -> Counters:
    if request.param == "memory":
        return MemoryCounters(clock=clock)
    return cast("RedisCounters", request.getfixturevalue("redis_counters"))


async def test_as_many_hits_are_admitted_as_the_limit_says(counters: Counters) -> None:
    verdicts = [await counters.hit("key", FIVE_PER_MINUTE) for _ in range(7)]

    assert [verdict.is_admitted for verdict in verdicts] == [True] * 5 + [False] * 2
    assert [verdict.remaining for verdict in verdicts] == [4, 3, 2, 1, 0, 0, 0]


async def test_a_key_does_not_count_for_another(counters: Counters) -> None:
    for _ in range(5):
        await counters.hit("key", FIVE_PER_MINUTE)

    assert (await counters.hit("other", FIVE_PER_MINUTE)).remaining == 4


async def test_a_hit_counts_until_its_span_is_over_and_not_a_microsecond_longer(
    counters: Counters, clock: Clock
) -> None:
    for _ in range(5):
        await counters.hit("key", FIVE_PER_MINUTE)
        clock.move(1)
    assert (await counters.hit("key", FIVE_PER_MINUTE)).seconds == 55

    clock.now_us += 55 * SECOND - 1
    assert not (await counters.hit("key", FIVE_PER_MINUTE)).is_admitted
    clock.now_us += 1
    assert (await counters.hit("key", FIVE_PER_MINUTE)).is_admitted
    assert not (await counters.hit("key", FIVE_PER_MINUTE)).is_admitted


async def test_refused_hits_do_not_count(counters: Counters, clock: Clock) -> None:
    for _ in range(20):
        await counters.hit("key", FIVE_PER_MINUTE)
    clock.move(59)
    for _ in range(20):
        await counters.hit("key", FIVE_PER_MINUTE)

    clock.move(1)

    assert (await counters.hit("key", FIVE_PER_MINUTE)).remaining == 4


async def test_the_burst_at_the_edge_of_two_minutes_that_a_fixed_window_admits_is_refused(
    counters: Counters, clock: Clock
) -> None:
    clock.move(59 - clock.now_us / SECOND % 60)
    admitted = [(await counters.hit("key", FIVE_PER_MINUTE)).is_admitted for _ in range(5)]
    clock.move(2)
    admitted += [(await counters.hit("key", FIVE_PER_MINUTE)).is_admitted for _ in range(5)]

    assert admitted.count(True) == 5


async def test_a_clock_that_is_set_back_admits_nothing_more(counters: Counters, clock: Clock) -> None:
    for _ in range(5):
        await counters.hit("key", FIVE_PER_MINUTE)
    clock.move(-600)

    verdict = await counters.hit("key", FIVE_PER_MINUTE)

    assert not verdict.is_admitted
    assert verdict.seconds == 60


async def test_a_long_log_is_shortened_to_what_still_counts(counters: Counters, clock: Clock) -> None:
    quota = Quota.of(1000, timedelta(seconds=100))
    for _ in range(1000):
        await counters.hit("key", quota)
        clock.move(0.1)

    clock.move(33.3)

    assert (await counters.hit("key", quota)).remaining == 333


@pytest.mark.parametrize("seed", range(20))
async def test_memory_and_redis_give_the_same_verdicts(
    redis_counters: RedisCounters, clock: Clock, seed: int
) -> None:
    """Random schedules over a few keys: bursts, pauses, and steps of exactly one span.

    The spans are long, as the keys in Redis expire by the real clock.
    """
    chance = random.Random(seed)
    memory = MemoryCounters(clock=clock)
    quota = Quota.of(chance.choice([1, 2, 5, 40]), timedelta(seconds=chance.choice([60, 3600])))
    steps = [0, 0, 0, 1e-6, quota.per.total_seconds() / quota.limit, quota.per.total_seconds() / 3]

    for _ in range(200):
        clock.move(chance.choice([*steps, quota.per.total_seconds()]))
        key = f"{seed}-{chance.randrange(3)}"
        assert await memory.hit(key, quota) == await redis_counters.hit(key, quota)


async def test_redis_counts_by_its_own_clock(redis_url: str, prefix: str) -> None:
    counters = RedisCounters(redis_url, prefix=prefix)
    try:
        verdicts = [await counters.hit("key", FIVE_PER_MINUTE) for _ in range(6)]
    finally:
        await counters.close()

    assert [verdict.is_admitted for verdict in verdicts] == [True] * 5 + [False]
    assert 0 < verdicts[-1].seconds <= 60


async def test_keys_in_redis_go_when_their_hits_are_over(
    redis_counters: RedisCounters, redis_url: str, prefix: str
) -> None:
    await redis_counters.hit("key", FIVE_PER_MINUTE)

    async with Redis.from_url(redis_url) as redis:
        assert 0 < await redis.pttl(f"{prefix}key") <= 60_001


async def test_redis_that_was_restarted_is_given_the_script_again(own_redis: Any, clock: Clock) -> None:
    counters = RedisCounters(own_redis.url, prefix="", clock=clock)
    await counters.hit("key", FIVE_PER_MINUTE)
    own_redis.stop()
    await own_redis.start()
    try:
        assert (await counters.hit("key", FIVE_PER_MINUTE)).remaining == 4
    finally:
        await counters.close()


async def test_memory_forgets_keys_whose_hits_are_over(clock: Clock) -> None:
    counters = MemoryCounters(clock=clock)
    for number in range(10):
        await counters.hit(f"short-{number}", FIVE_PER_MINUTE)
        await counters.hit(f"long-{number}", Quota.of(5, timedelta(hours=1)))
    clock.move(60)

    assert [counters.drop_expired(at_most=7) for _ in range(3)] == [7, 3, 0]
    assert len(counters) == 10


async def test_memory_keeps_no_more_keys_than_it_may(clock: Clock) -> None:
    counters = MemoryCounters(clock=clock, max_keys=3)
    for number in range(5):
        await counters.hit(f"{number}", FIVE_PER_MINUTE)

    assert len(counters) == 3
    assert (await counters.hit("4", FIVE_PER_MINUTE)).remaining == 3

"""Rate limits: how often something may happen, counted across all processes of a service.

In Redis when `cache.url` names one, else in the memory of the process. What a limit is about, and what its
caller is answered, is decided by `backstay.rate_limit`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, Literal, NoReturn

from backstay.breaker import Breaker
from backstay.cache._counters import Counters, CountersAwayError, MemoryCounters, Quota, Verdict
from backstay.cache._durations import parse_duration
from backstay.cache._patience import Patience
from backstay.settings import Settings

__all__ = ["Limits", "Quota", "Verdict", "WhenUnavailable", "open_limits", "parse_duration"]

WhenUnavailable = Literal["local", "open"]
"""What a limit does while Redis is away: count in this process alone, or admit everything."""

_CLEANING_SECONDS: Final = 10.0
_CLEANED_AT_ONCE: Final = 1000
_ASKED_AT_ONCE: Final = 16  # Redis serves one after the other anyway

_logger = logging.getLogger("backstay.cache")


class Limits:
    """The counters of a service; found as `current_runtime().limits`.

    Args:
        shared: What all processes count with; None when each counts for itself.
        local: What this process counts with, always or while the shared counters are away.
        budget: How long to wait for the shared ones.
        breaker: When to stop asking them.
        processes: How many count, as far as the settings tell.
    """

    def __init__(
        self,
        shared: Counters | None,
        *,
        local: MemoryCounters,
        budget: timedelta,
        breaker: Breaker | None = None,
        processes: int = 1,
    ) -> None:
        self._shared = shared
        self._local = local
        self._budget_seconds = budget.total_seconds()
        self._breaker = breaker or Breaker()
        self._turns = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._is_away = False
        self._must_warn = shared is None and processes > 1

    @property
    def is_shared(self) -> bool:
        """Whether other processes count with the same counters."""
        return self._shared is not None

    async def hit(self, key: str, quota: Quota, *, when_unavailable: WhenUnavailable) -> Verdict | None:
        """Count a hit of `key`, unless it is one too many.

        Args:
            key: What is counted; keys with different quotas have to differ.
            quota: How many hits it may have.
            when_unavailable: What happens while Redis is away.

        Returns:
            None when the hit was admitted uncounted.
        """
        if self._shared is None:
            self._warn()
            return await self._local.hit(key, quota)
        async with self._turns:  # those who wait here learn at once that the breaker has opened
            verdict = await self._ask(self._shared, key, quota) if self._breaker.admits() else None
        if verdict is None and when_unavailable == "local":
            return await self._local.hit(key, quota)
        return verdict

    def _warn(self) -> None:
        """Say once what nobody sees: limits on routes stop such a start, those in functions are met here."""
        if self._must_warn:
            self._must_warn = False
            _logger.warning(
                "Rate limits are counted by each worker process for itself: set cache.url to a Redis, or "
                "server.workers to 1."
            )

    async def _ask(self, shared: Counters, key: str, quota: Quota) -> Verdict | None:
        try:
            async with Patience(self._budget_seconds):
                verdict = await shared.hit(key, quota)
        except (CountersAwayError, TimeoutError) as error:
            self._breaker.fail()
            self._tell(error)
            return None
        except BaseException:
            self._breaker.abandon()
            raise
        self._breaker.succeed()
        self._tell(None)
        return verdict

    def _tell(self, error: Exception | None) -> None:
        """Log when Redis goes and when it is back, and not each hit between."""
        if (error is not None) == self._is_away:
            return
        self._is_away = error is not None
        if error is None:
            _logger.info("Redis counts the rate limits again.")
        else:
            _logger.warning(
                "Redis does not count the rate limits (%s): each of them is counted by this process alone, "
                "or open, as it says.",
                str(error) or type(error).__name__,
            )

    async def keep_clean(self) -> NoReturn:
        """Forget now and then, a little at a time, what no longer counts in memory; until cancelled."""
        while True:
            is_more_left = self._local.drop_expired(at_most=_CLEANED_AT_ONCE) == _CLEANED_AT_ONCE
            await asyncio.sleep(0 if is_more_left else _CLEANING_SECONDS)


@asynccontextmanager
async def open_limits(settings: Settings) -> AsyncIterator[Limits]:
    """Open the counters that `settings.cache` names; Redis is not asked before the first hit."""
    cache = settings.cache
    if cache.url is None:
        processes = settings.server.workers
        yield Limits(None, local=MemoryCounters(), budget=cache.operation_timeout, processes=processes)
        return
    from backstay.cache._redis_counters import RedisCounters  # noqa: PLC0415  slow to import

    prefix = f"{cache.prefix or settings.name}:limit:"
    shared = RedisCounters(cache.url.get_secret_value(), prefix=prefix, max_connections=_ASKED_AT_ONCE)
    try:
        yield Limits(shared, local=MemoryCounters(), budget=cache.operation_timeout)
    finally:
        await shared.close()

"""What a rate limit counts with: for each key, when its last admitted hits were.

docs/decisions/0009-rate-limits.md says why each hit is kept. Both stores do the same, this one in the memory
of the process.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

__all__ = ["Counters", "CountersAwayError", "MemoryCounters", "Quota", "Verdict"]

_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Quota:
    """How many hits are admitted in any span of time of one length.

    Attributes:
        limit: So many.
        per: The length of the span.
        per_us: The same in microseconds.
    """

    limit: int
    per: timedelta
    per_us: int

    @classmethod
    def of(cls, limit: int, per: timedelta) -> Quota:
        """Return the quota of `limit` hits in any span of `per`."""
        return cls(limit, per, per // _MICROSECOND)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a hit.

    Attributes:
        is_admitted: Whether it is within the quota; only then it counts.
        remaining: How many more would be admitted now.
        seconds: Until the oldest hit that counts stops counting, and one more is admitted.
    """

    is_admitted: bool
    remaining: int
    seconds: float


class CountersAwayError(Exception):
    """The counters cannot be reached, or refuse to count."""


class Counters(Protocol):
    """Counts hits by key; the key stands for its quota too."""

    async def hit(self, key: str, quota: Quota) -> Verdict:
        """Count a hit of `key`, unless it is one too many.

        Raises:
            CountersAwayError: They cannot be reached, or refuse.
        """
        ...


def _read_clock() -> int:
    return time.monotonic_ns() // 1000


class MemoryCounters:
    """Counts in the memory of this process.

    Args:
        clock: Returns microseconds; a monotonic clock unless a test brings its own.
        max_keys: How many keys are kept for each length of span. Over that, the key forgets its hits that has
            gone longest without one.
    """

    def __init__(self, *, clock: Callable[[], int] = _read_clock, max_keys: int = 100_000) -> None:
        self._clock = clock
        self._max_keys = max_keys
        # By length of the span, so that the first key of each is the first to expire.
        self._logs: dict[int, OrderedDict[str, list[int]]] = {}

    async def hit(self, key: str, quota: Quota) -> Verdict:
        """Count a hit of `key`, unless it is one too many."""
        logs = self._logs.setdefault(quota.per_us, OrderedDict())
        hits = logs.get(key, [])
        now_us = max(self._clock(), hits[-1] if hits else 0)
        edge_us = now_us - quota.per_us
        if hits and hits[0] <= edge_us:
            del hits[: bisect_right(hits, edge_us)]
        if len(hits) >= quota.limit:
            return Verdict(False, 0, (hits[0] - edge_us) / 1e6)
        hits.append(now_us)
        self._keep(logs, key, hits)
        return Verdict(True, quota.limit - len(hits), (hits[0] - edge_us) / 1e6)

    def _keep(self, logs: OrderedDict[str, list[int]], key: str, hits: list[int]) -> None:
        logs[key] = hits
        logs.move_to_end(key)
        if len(logs) > self._max_keys:
            logs.popitem(last=False)

    def __len__(self) -> int:
        """Return how many keys are kept."""
        return sum(map(len, self._logs.values()))

    def drop_expired(self, *, at_most: int) -> int:
        """Forget keys none of whose hits counts any more; return how many, `at_most` at a time."""
        now_us = self._clock()
        dropped = 0
        for per_us, logs in self._logs.items():
            while logs and dropped < at_most and next(iter(logs.values()))[-1] <= now_us - per_us:
                logs.popitem(last=False)
                dropped += 1
        return dropped

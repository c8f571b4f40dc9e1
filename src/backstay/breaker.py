"""When to stop asking something that does not answer, and when to try again.

A breaker is closed while calls go well. It opens after several failures in a row, or when half of the last
calls failed; then nobody asks. After a pause one caller may try, alone; its answer closes the breaker or
opens it for another pause.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

__all__ = ["Breaker"]

_JITTER = 0.2


class Breaker:
    """Decide who may ask; the caller reports how it went.

    Every `admits()` that returned True is followed by exactly one of `succeed`, `fail` and `abandon`.

    Args:
        failures_in_a_row: So many open it.
        window: So many of the last calls are looked at; half of them failed opens it, too.
        pause: How long it stays open before one caller may try, give or take a fifth.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        *,
        failures_in_a_row: int = 5,
        window: int = 20,
        pause: timedelta = timedelta(seconds=1),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures_in_a_row
        self._pause_seconds = pause.total_seconds()
        self._clock = clock
        self._streak = 0
        self._failures: deque[bool] = deque(maxlen=window)
        self._reopens_at: float | None = None
        self._is_probing = False

    @property
    def is_closed(self) -> bool:
        """Whether everybody may ask."""
        return self._reopens_at is None

    def admits(self) -> bool:
        """Return whether the caller may ask now; in an open breaker, one at a time and after the pause."""
        if self._reopens_at is None:
            return True
        if self._is_probing or self._clock() < self._reopens_at:
            return False
        self._is_probing = True
        return True

    def succeed(self) -> None:
        """Report an answer."""
        if self._reopens_at is None:
            self._streak = 0
            self._failures.append(False)
        elif self._is_probing:
            self._close()

    def fail(self) -> None:
        """Report that there was no answer, or a useless one."""
        if self._reopens_at is not None:
            if self._is_probing:
                self._open()
            return
        self._streak += 1
        self._failures.append(True)
        if self._streak >= self._limit or self._is_half_failed():
            self._open()

    def abandon(self) -> None:
        """Report that the caller left before it knew."""
        self._is_probing = False

    def _is_half_failed(self) -> bool:
        is_full = len(self._failures) == self._failures.maxlen
        return is_full and 2 * sum(self._failures) >= len(self._failures)

    def _open(self) -> None:
        # Spread, so that the workers of a service do not all try in the same instant.
        spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  no secret
        self._reopens_at = self._clock() + self._pause_seconds * spread
        self._is_probing = False

    def _close(self) -> None:
        self._reopens_at = None
        self._is_probing = False
        self._streak = 0
        self._failures.clear()

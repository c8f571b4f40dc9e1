"""The call of one request: how long it may take, and how it is ended when it takes longer."""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import Final

from backstay.deadline import Call
from backstay.errors import AppError, DeadlineExceededError, UnavailableError

__all__ = ["SWEEP_SECONDS", "RequestCall"]

SWEEP_SECONDS: Final = 0.1
"""How often somebody looks whose time is over."""

_SHORT_SECONDS: Final = 2 * SWEEP_SECONDS
_GRACE_SECONDS: Final = 0.01
"""How late a request is when it is ended: most waits know the deadline, and end by themselves with an error
that says more."""


class RequestCall(Call):
    """A request that began now, in the running task.

    Args:
        limit_seconds: How long it may take; infinite for as long as it likes.

    Attributes:
        caller_waits: How long its caller waits; infinite when it does not say.
        is_ending: Whether it is being committed, when it must not be cancelled.
    """

    __slots__ = ("_began", "_had_no_turn", "_is_cancelled", "_task", "caller_waits", "is_ending")

    def __init__(self, limit_seconds: float) -> None:
        # Done for every request: no call that can be spared.
        self._began = began = monotonic()
        self.ends_at = began + limit_seconds
        self._task = asyncio.current_task()
        self._is_cancelled = self._had_no_turn = self.is_ending = False
        self.keeps_place = self.waits_for_turn = self.has_committed = False
        self.caller_waits = inf
        if limit_seconds < _SHORT_SECONDS:
            self._watch(limit_seconds)

    def shorten(self, caller_waits: float) -> None:
        """Give it no more time than its caller waits."""
        self.caller_waits = caller_waits
        self.allow(self.ends_at - self._began)

    def allow(self, seconds: float) -> None:
        """Give it so much time from its beginning, though never more than its caller waits."""
        seconds = min(seconds, self.caller_waits)
        self.ends_at = self._began + seconds
        if seconds < _SHORT_SECONDS:
            self._watch(seconds)

    def _watch(self, seconds: float) -> None:
        # It might be over before the sweeper looks.
        asyncio.get_running_loop().call_later(seconds + _GRACE_SECONDS, self.cancel_when_over)

    @property
    def due_at(self) -> float:
        """When it is to be cancelled if it has not ended."""
        return self.ends_at + _GRACE_SECONDS

    def cancel_when_over(self) -> None:
        """Cancel its task, once, when its time is over, unless it is being committed."""
        is_over = monotonic() >= self.due_at
        if is_over and self._task is not None and not self.is_ending and not self._is_cancelled:
            self._is_cancelled, self._had_no_turn = True, self.waits_for_turn
            self._task.cancel()

    def explain(self) -> AppError:
        """Return what its caller is told when its time is over."""
        if self._had_no_turn:
            return UnavailableError("All database connections are busy.")
        return DeadlineExceededError("The time for this request is over.")

    def take_cancellation(self) -> bool:
        """Return whether its time is the only reason why its task was cancelled, and if so take that back."""
        return self._is_cancelled and self._task is not None and self._task.uncancel() == 0

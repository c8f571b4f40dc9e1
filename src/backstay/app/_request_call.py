"""The call of one request: how long it may take, and how it is ended when it takes longer."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from backstay.deadline import Call

__all__ = ["SWEEP_SECONDS", "RequestCall"]

SWEEP_SECONDS: Final = 0.1
"""How often somebody looks whose time is over."""

_GRACE_SECONDS: Final = 0.01
"""How late a request is when it is ended: most waits know the deadline, and end by themselves with an error
that says more."""


class RequestCall(Call):
    """A request that began now, in the running task.

    Args:
        limit_seconds: How long it may take; infinite for as long as it likes.
        caller_waits: How long its caller waits; infinite when it does not say.

    Attributes:
        is_ending: Whether it is being committed, when it must not be cancelled.
    """

    __slots__ = ("_began", "_is_cancelled", "_task", "caller_waits", "is_ending")

    def __init__(self, limit_seconds: float, *, caller_waits: float) -> None:
        self._began = time.monotonic()
        self._task = asyncio.current_task()
        self._is_cancelled = False
        self.is_ending = False
        self.caller_waits = caller_waits
        self.allow(limit_seconds)

    def allow(self, seconds: float) -> None:
        """Give it so much time from its beginning, though never more than its caller waits."""
        seconds = min(seconds, self.caller_waits)
        self.ends_at = self._began + seconds
        if seconds < 2 * SWEEP_SECONDS:  # it might be over before anybody looks
            asyncio.get_running_loop().call_later(seconds + _GRACE_SECONDS, self.cancel_when_over)

    @property
    def due_at(self) -> float:
        """When it is to be cancelled if it has not ended."""
        return self.ends_at + _GRACE_SECONDS

    def cancel_when_over(self) -> None:
        """Cancel its task, once, when its time is over, unless it is being committed."""
        is_over = time.monotonic() >= self.due_at
        if is_over and self._task is not None and not self.is_ending and not self._is_cancelled:
            self._is_cancelled = True
            self._task.cancel()

    def take_cancellation(self) -> bool:
        """Return whether its time is the only reason why its task was cancelled, and if so take that back."""
        return self._is_cancelled and self._task is not None and self._task.uncancel() == 0

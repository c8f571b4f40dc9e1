"""How long to wait for somebody else, when one may be late oneself."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

__all__ = ["Patience"]

_TICKS: Final = 10


class Patience:
    """Give a block so much time, in which the event loop is not late.

    A timer that is late finds the answer that has come meanwhile unread: a burst of requests, or a machine
    that halts, would look like a Redis that hangs. So the time is counted in ticks, and a late one is one.

    Args:
        seconds: How much time.

    Raises:
        TimeoutError: It is over.
    """

    __slots__ = ("_left", "_loop", "_tick_seconds", "_timeout", "_timer")

    def __init__(self, seconds: float) -> None:
        self._left = _TICKS
        self._loop = asyncio.get_running_loop()
        self._tick_seconds = seconds / _TICKS
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        """Begin to count."""
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(self._tick_seconds, self._tick)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count no more."""
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _tick(self) -> None:
        self._left -= 1
        if self._left:
            self._timer = self._loop.call_later(self._tick_seconds, self._tick)
        else:
            self._timeout.reschedule(self._loop.time())

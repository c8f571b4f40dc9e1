"""How long to wait for somebody else, when one may be late oneself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["patience"]

_TICKS: Final = 10


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Give the block so much time, in which the event loop is not late.

    A timer that is late finds the answer that has come meanwhile unread: a burst of requests, or a machine
    that halts, would look like a Redis that hangs. So the time is counted in ticks, and a late one is one.

    Raises:
        TimeoutError: It is over.
    """
    async with asyncio.timeout(None) as timeout:
        ticks = _Ticks(timeout, seconds / _TICKS)
        try:
            yield
        finally:
            ticks.stop()


class _Ticks:
    """Ends a timeout after a number of ticks."""

    def __init__(self, timeout: asyncio.Timeout, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._seconds = seconds
        self._left = _TICKS
        self._timer = self._loop.call_later(seconds, self._tick)

    def _tick(self) -> None:
        self._left -= 1
        if self._left:
            self._timer = self._loop.call_later(self._seconds, self._tick)
        else:
            self._timeout.reschedule(self._loop.time())

    def stop(self) -> None:
        self._timer.cancel()

"""One look at all connections of a process, four times a second, instead of a timer for each request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from time import perf_counter
from typing import Protocol

__all__ = ["Patience", "Sweeper", "Watched"]

_PERIOD_SECONDS = 0.25
_SLICE_SECONDS = 0.002
"""After so long the others have a turn: hundreds that come together are late together, too."""


class Watched(Protocol):
    """Something that may take too long."""

    def check(self, now: float) -> None:
        """End what took too long; `now` is the event loop's time."""


class Sweeper:
    """Checks connections for as long as there are any.

    Args:
        connections: Those of the server; others than ours are among them.
    """

    def __init__(self, connections: AbstractSet[object]) -> None:
        self._connections = connections
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check from now on, until there are no connections."""
        if self._loop is None:
            self._loop = loop
            loop.call_later(_PERIOD_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        # A connection that became a WebSocket has limits of its own.
        watched = [connection for connection in self._connections if hasattr(connection, "check")]
        self._look_at(iter(watched), loop)

    def _look_at(self, rest: Iterator[Watched], loop: asyncio.AbstractEventLoop) -> None:
        now, began = loop.time(), perf_counter()
        for connection in rest:
            connection.check(now)
            if perf_counter() - began > _SLICE_SECONDS:
                loop.call_soon(self._look_at, rest, loop)
                return
        self._loop = None
        if self._connections:
            self.begin(loop)


class Patience:
    """How long somebody may still be slow: bytes that move give time back, up to what there was at first.

    A burst buys no more than a pause of `seconds`, and a trickle does not add up to one.
    """

    __slots__ = ("_bytes_per_second", "_ends", "_moved", "_seconds")

    def __init__(self, *, seconds: float, bytes_per_second: int) -> None:
        self._seconds = seconds
        self._bytes_per_second = bytes_per_second
        self._moved = 0
        self._ends = 0.0

    def begin(self, now: float, moved: int) -> None:
        """Count anew from here; `moved` is how many bytes there were until now."""
        self._moved = moved
        self._ends = now + self._seconds

    def is_over(self, now: float, moved: int) -> bool:
        """Return whether too little has moved for too long."""
        gained = (moved - self._moved) / self._bytes_per_second
        self._moved = moved
        self._ends = min(now + self._seconds, self._ends + gained)
        return now > self._ends

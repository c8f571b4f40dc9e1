"""One look at all connections of a process, four times a second, instead of a timer for each request.

The look is spread over the quarter of a second: a crowd of slow callers that end together would else make all
others wait until the last one is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from time import perf_counter
from typing import Protocol

__all__ = ["Patience", "Sweeper", "Watched"]

_PERIOD_SECONDS = 0.25
_SLICE = 16
"""So many are looked at in one go; the goes are spread over the period."""
_SLICE_SECONDS = 0.002
_BREATH_SECONDS = 0.005
"""After so long the others have a turn, of so long: hundreds that come together are late together, too."""


class Watched(Protocol):
    """Something that may take too long."""

    def check(self, now: float) -> None:
        """End what took too long; `now` is the event loop's time."""


class Sweeper:
    """Checks connections for as long as there are any.

    Args:
        connections: Those of the server; others than ours are among them.
        clock: Seconds, for how long a go takes: the event loop's own clock may stand still meanwhile.
    """

    def __init__(
        self, connections: AbstractSet[object], *, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._is_checking = False

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check from now on, until there are no connections."""
        if not self._is_checking:
            self._is_checking = True
            loop.call_later(_PERIOD_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._connections:
            self._is_checking = False
            return
        # A connection that became a WebSocket has limits of its own.
        watched = [connection for connection in self._connections if hasattr(connection, "check")]
        pause = _PERIOD_SECONDS / (len(watched) // _SLICE + 1)
        self._look_at(iter(watched), pause, loop)

    def _look_at(self, rest: Iterator[Watched], pause: float, loop: asyncio.AbstractEventLoop) -> None:
        now, began = loop.time(), self._clock()
        for count, connection in enumerate(rest, start=1):
            if connection in self._connections:
                connection.check(now)
            is_long = self._clock() - began > _SLICE_SECONDS
            if is_long or count == _SLICE:
                wait = min(pause, _BREATH_SECONDS) if is_long else pause
                loop.call_later(wait, self._look_at, rest, pause, loop)
                return
        loop.call_later(pause, self._sweep, loop)


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

"""Who may have connections: a request takes a place at its first checkout, and keeps it for its further ones.

There is one place less than connections. Whoever needs a second connection while it holds one finds the last
one free, or held by somebody who is about to finish: they cannot all wait for each other. Others wait in
front of the pool, where they hold nothing, and are told at once when that is hopeless.

Each pool has places of its own, so that writers cannot starve readers. A request has one, in the pool that it
used first. Code outside of requests has none, and waits in the pool as ever.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from backstay.deadline import Call, current_call

__all__ = ["Admission", "NoPlaceError", "Place", "Places"]

_LONGEST_QUEUE: Final = 5000
_LONGEST_RETRY_SECONDS: Final = 30
_WEIGHT_OF_LATEST: Final = 0.1


class NoPlaceError(PoolTimeoutError):
    """There was no place in time, or there would be none.

    Args:
        seconds: After how many seconds there may be one.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("No place for another request with connections.")
        self.retry_after_seconds = min(max(1, math.ceil(seconds)), _LONGEST_RETRY_SECONDS)


class Admission:
    """The places of one pool.

    Args:
        places: How many there are.
    """

    def __init__(self, places: int) -> None:
        self._places = self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a place is to be had without waiting."""
        return self._free > 0

    async def enter(self, *, at_most: float) -> None:
        """Take a place; those who wait get one in the order of their arrival.

        Args:
            at_most: For how many seconds to wait.

        Raises:
            NoPlaceError: There was none in that time, or there are too many before this one.
        """
        if self._free:
            self._free -= 1
            return
        expected = self._mean_seconds * (len(self._waiting) + 1) / self._places
        if expected > at_most or len(self._waiting) >= _LONGEST_QUEUE:
            raise NoPlaceError(expected)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(at_most):
                await turn
        except BaseException as error:
            self._forgo(turn)
            if isinstance(error, TimeoutError):
                raise NoPlaceError(expected) from error
            raise

    def _forgo(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self._pass_on()  # it came in the moment in which we gave up
        elif turn in self._waiting:  # else it was passed over: it was cancelled before we heard of that
            self._waiting.remove(turn)

    def leave(self, *, seconds: float) -> None:
        """Give a place back that was kept for so long."""
        self._mean_seconds += (seconds - self._mean_seconds) * _WEIGHT_OF_LATEST
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Place:
    """The place of one request, taken when it first asks for a connection."""

    __slots__ = ("_admission", "_began", "_call", "_connections")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._admission: Admission | None = None
        self._connections = 0
        self._began = 0.0

    @property
    def is_taken(self) -> bool:
        """Whether it has one now."""
        return self._admission is not None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let whoever ends the request know that it has no connection yet, or waited for it in vain."""
        self._call.waits_for_turn = True
        yield
        self._call.waits_for_turn = False  # not when it fails: its error may be on its way at the deadline

    async def take(self, admission: Admission, *, at_most: float) -> None:
        """Take it; see `Admission.enter`."""
        await admission.enter(at_most=at_most)
        if self.is_taken:  # another task of the request was quicker
            admission.leave(seconds=0.0)
            return
        self._admission, self._began = admission, monotonic()

    def add_connection(self) -> None:
        """Keep it for a connection."""
        self._connections += 1

    def remove_connection(self) -> None:
        """Give it back with the last connection, if the request does not keep it for more."""
        self._connections -= 1
        self.give_back()

    def give_back(self) -> None:
        """Give it back unless it is needed."""
        if self._admission is None or self._connections or self._call.keeps_place:
            return
        admission, self._admission = self._admission, None
        admission.leave(seconds=monotonic() - self._began)


class Places:
    """The places that requests have, over all pools of a database."""

    def __init__(self) -> None:
        self._by_call: WeakKeyDictionary[Call, Place] = WeakKeyDictionary()

    def of_current_call(self) -> Place | None:
        """Return the place of the current request, taken or not; None outside of requests."""
        call = current_call()
        if call is None:
            return None
        place = self._by_call.get(call)
        if place is None:
            place = self._by_call[call] = Place(call)
        return place

    def keep(self) -> None:
        """Let the current request keep its place between connections, from now on."""
        if (call := current_call()) is not None:
            call.keeps_place = True

    def let_go(self) -> None:
        """Let the current request give its place back as soon as it has no connection."""
        if (call := current_call()) is None:
            return
        call.keeps_place = False
        if (place := self._by_call.get(call)) is not None:
            place.give_back()

"""Pools that say how full they are, and who had to wait for a connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Self, cast

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, QueuePool
from sqlalchemy.util.concurrency import await_
from sqlalchemy.util.queue import Empty

from backstay import events
from backstay.db._admission import Admission, Place, Places
from backstay.deadline import seconds_left, without_deadline

__all__ = ["DeadlinePool", "NoSpareConnectionError", "PoolUse", "WatchedPool", "pool_use", "without_waiting"]


class NoSpareConnectionError(Exception):
    """No connection is free at once; never leaves this room."""


_PLACE = "backstay.place"
_waits: ContextVar[bool] = ContextVar("backstay.pool_waits", default=True)


@contextmanager
def without_waiting() -> Iterator[None]:
    """Make a checkout in this block raise `NoSpareConnectionError` rather than wait for somebody else's.

    The pool decides while it takes the connection. Who looks first and takes then may meet another one who
    looked, and both wait.
    """
    token = _waits.set(False)
    try:
        yield
    finally:
        _waits.reset(token)


@dataclass(frozen=True, slots=True)
class PoolUse:
    """How full a pool is at this moment, in connections.

    Attributes:
        name: `writing` or `reading`.
        checked_out: In use.
        idle: Open, and free.
        limit: The most that it may have open, overflow included.
    """

    name: str
    checked_out: int
    idle: int
    limit: int


class DeadlinePool(QueuePool):
    """SQLAlchemy's pool, in which nobody waits for a connection past the deadline."""

    __module__ = QueuePool.__module__

    @property
    def _timeout(self) -> float:
        return seconds_left(at_most=self._longest_wait)

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._longest_wait = seconds

    def recreate(self) -> Self:
        """Return a new pool in place of this one, with the same limits."""
        with without_deadline():
            return cast("Self", super().recreate())


class WatchedPool(DeadlinePool, AsyncAdaptedQueuePool):
    """SQLAlchemy's pool for async engines; each wait for a connection becomes an event."""

    # SQLAlchemy names the pool's logger after it, and lets only its own loggers be as quiet as they are.
    __module__ = AsyncAdaptedQueuePool.__module__

    def open_to(self, places: Places) -> None:
        """Let requests have connections who have a place; there is one less than connections."""
        self._places = places
        self._admission = Admission(max(1, self.limit - 1))

    _places: Places | None = None
    _admission: Admission

    def recreate(self) -> Self:
        """Return a new pool in place of this one, with the same limits."""
        pool = super().recreate()
        if self._places is not None:
            pool.open_to(self._places)
        return pool

    def _do_get(self) -> ConnectionPoolEntry:
        if not _waits.get():
            return self._take_spare()
        place = self._places.of_current_call() if self._places is not None else None
        has_place = place is None or place.is_taken or self._admission.is_open
        if has_place and (self._overflow < self._max_overflow or self.checkedin()):
            return self._take(place)
        began = perf_counter()
        try:
            return self._take(place)
        finally:
            if events.is_watched(events.ConnectionAwaited):
                waited = perf_counter() - began
                events.emit(events.ConnectionAwaited(pool=self.logging_name or "", seconds=waited))

    def _take(self, place: Place | None) -> ConnectionPoolEntry:
        if place is None:
            return super()._do_get()
        with place.waiting():
            if not place.is_taken:
                await_(place.take(self._admission, at_most=self._timeout))
            place.add_connection()
            try:
                record = super()._do_get()
            except BaseException:
                place.remove_connection()
                raise
        record.record_info[_PLACE] = place  # type: ignore[index]  # a dictionary, made when it is asked for
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        place = cast("Any", record).record_info.pop(_PLACE, None)
        super()._do_return_conn(record)
        if place is not None:
            place.remove_connection()

    def _take_spare(self) -> ConnectionPoolEntry:
        try:
            return self._pool.get(block=False)
        except Empty:
            if self._overflow >= self._max_overflow:
                raise NoSpareConnectionError from None
        return super()._do_get()  # opens a new one: nothing can have come between

    @property
    def limit(self) -> int:
        """The most connections that it may have open."""
        return self.size() + self._max_overflow


def pool_use(engine: AsyncEngine) -> PoolUse:
    """Return how full the pool of an engine is."""
    pool = cast("Any", engine.sync_engine.pool)
    return PoolUse(pool.logging_name, pool.checkedout(), pool.checkedin(), pool.limit)

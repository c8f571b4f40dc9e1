"""Pools that say how full they are, and who had to wait for a connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util.queue import Empty

from backstay import events
from backstay.deadline import seconds_left

__all__ = ["NoSpareConnectionError", "PoolUse", "WatchedPool", "pool_use", "without_waiting"]


class NoSpareConnectionError(Exception):
    """No connection is free at once; never leaves this room."""


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


class WatchedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool for async engines; each wait for a connection becomes an event."""

    @property
    def _timeout(self) -> float:
        return seconds_left(at_most=self._longest_wait)

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._longest_wait = seconds

    # SQLAlchemy names the pool's logger after it, and lets only its own loggers be as quiet as they are.
    __module__ = AsyncAdaptedQueuePool.__module__

    def _do_get(self) -> ConnectionPoolEntry:
        if not _waits.get():
            return self._take_spare()
        if self._overflow < self._max_overflow or self.checkedin():
            return super()._do_get()
        began = perf_counter()
        try:
            return super()._do_get()
        finally:
            if events.is_watched(events.ConnectionAwaited):
                waited = perf_counter() - began
                events.emit(events.ConnectionAwaited(pool=self.logging_name or "", seconds=waited))

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

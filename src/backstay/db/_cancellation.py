"""Cancellation that leaves nothing behind.

A cancel scope of anyio cancels again at every step, also while the driver asks the server to stop the
query: the clean-up is cut short, the query runs on and its connection is lost. SQLite's driver is worse:
the cancelled statement runs on in its thread and keeps the lock on the whole database. So each database
call runs in a task of its own, is told to stop in the way of its database, and has ended when the
cancellation is passed on. Ending a transaction is never cancelled at all.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar, cast

import anyio

__all__ = ["Guarded", "interruptible", "uninterruptible"]

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])
Stop = Callable[[asyncio.Task[Any]], None]

_LIMIT_SECONDS = 15.0
_ASK_AGAIN_SECONDS = 0.02

_logger = logging.getLogger("backstay.db")


class Guarded(Protocol):
    """What a session offers to the methods below."""

    def refuse_late_use(self) -> None:
        """Raise when the session has ended."""
        ...

    def stop(self, task: asyncio.Task[Any]) -> None:
        """Make the database stop what `task` waits for; asked again until it has."""
        ...


def interruptible(method: Method) -> Method:
    """Wrap a session's method so that a cancelled call stops its query in the database before it returns."""

    @functools.wraps(method)
    async def guarded(session: Guarded, *args: Any, **kwargs: Any) -> Any:
        session.refuse_late_use()
        return await _run(method(session, *args, **kwargs), stop=session.stop)

    return cast("Method", guarded)


def uninterruptible(method: Method) -> Method:
    """Wrap a session's method so that a cancelled call runs to its end first."""

    @functools.wraps(method)
    async def guarded(session: Guarded, *args: Any, **kwargs: Any) -> Any:
        return await _run(method(session, *args, **kwargs), stop=None)

    return cast("Method", guarded)


async def _run(call: Awaitable[T], *, stop: Stop | None) -> T:
    task = asyncio.ensure_future(cast("Coroutine[Any, Any, T]", call))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await _settle(task, stop)
        raise


async def _settle(task: asyncio.Task[Any], stop: Stop | None) -> None:
    ends_at = asyncio.get_running_loop().time() + _LIMIT_SECONDS
    while not task.done():
        if asyncio.get_running_loop().time() > ends_at:
            _logger.error("A database call did not end %s s after its cancellation.", _LIMIT_SECONDS)
            task.cancel()
            return
        if stop is not None:
            stop(task)
        try:
            await asyncio.wait({task}, timeout=_ASK_AGAIN_SECONDS if stop else _LIMIT_SECONDS)
        except asyncio.CancelledError:
            continue  # a second cancel() does not make the clean-up shorter; the first one is re-raised
    if not task.cancelled():
        task.exception()  # seen: asyncio would report it as never retrieved

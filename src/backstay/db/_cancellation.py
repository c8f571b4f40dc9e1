"""Cancellation that leaves nothing behind.

A cancel scope of anyio cancels again at every step, also while the driver asks the server to stop the query: the clean-up
is cut short, the query runs on and the connection is lost. So each database call runs in a task of its own, which is
cancelled exactly once and then given time to clean up. Ending a transaction is never cancelled at all.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

import anyio

__all__ = ["interruptible", "uninterruptible"]

T = TypeVar("T")
P = ParamSpec("P")
Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])

CLEANUP_SECONDS = 2.0
COMPLETION_SECONDS = 15.0

_logger = logging.getLogger("backstay.db")


def interruptible(method: Method) -> Method:
    """Wrap a session's method so that a cancelled call ends its query on the server before it returns."""

    @functools.wraps(method)
    async def guarded(session: Any, *args: Any, **kwargs: Any) -> Any:
        session.refuse_late_use()
        return await _run(method(session, *args, **kwargs), cancel=True, limit_seconds=CLEANUP_SECONDS)

    return cast("Method", guarded)


def uninterruptible(method: Method) -> Method:
    """Wrap a session's method so that a cancelled call runs to its end first."""

    @functools.wraps(method)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        return await _run(method(*args, **kwargs), cancel=False, limit_seconds=COMPLETION_SECONDS)

    return cast("Method", guarded)


async def _run(call: Awaitable[T], *, cancel: bool, limit_seconds: float) -> T:
    task = asyncio.ensure_future(cast("Coroutine[Any, Any, T]", call))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if cancel:
            task.cancel()
        await _settle(task, limit_seconds)
        raise


async def _settle(task: asyncio.Task[Any], limit_seconds: float) -> None:
    ends_at = asyncio.get_running_loop().time() + limit_seconds
    with anyio.CancelScope(shield=True):
        while not task.done():
            left = ends_at - asyncio.get_running_loop().time()
            if left <= 0:
                _logger.error("A database call did not end %s s after its cancellation.", limit_seconds)
                task.cancel()
                return
            try:
                await asyncio.wait({task}, timeout=left)
            except asyncio.CancelledError:
                continue  # a second cancel() does not make the clean-up shorter; the first one is re-raised
    if not task.cancelled():
        task.exception()  # seen: asyncio would report it as never retrieved

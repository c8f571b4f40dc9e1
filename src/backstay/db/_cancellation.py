"""Cancellation that leaves nothing behind.

A cancel scope of anyio cancels again at every step, also while the driver asks the server to stop the
query: the clean-up is cut short, the query runs on and its connection is lost. SQLite's driver is worse:
the cancelled statement runs on in its thread and keeps the lock on the whole database. So each database
call runs in a task of its own, is told to stop in the way of its database, and has ended when the
cancellation is passed on. Ending a transaction is never cancelled at all; but when a deadline has passed and
the server still does not answer, nobody waits for it any longer, and its connection is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar, cast

import anyio

from backstay.deadline import seconds_left
from backstay.errors import DeadlineExceededError

__all__ = ["Guarded", "committing", "ending", "interruptible"]

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])
Stop = Callable[[asyncio.Task[Any]], None]

_LIMIT_SECONDS = 15.0
_ASK_AGAIN_SECONDS = 0.02
_FIRST_LOOK_SECONDS = 0.02
_LOOK_AGAIN_SECONDS = 0.25

_logger = logging.getLogger("backstay.db")


class Guarded(Protocol):
    """What a session offers to the methods below."""

    def refuse_late_use(self) -> None:
        """Raise when the session has ended."""
        ...

    def stop(self, task: asyncio.Task[Any]) -> None:
        """Make the database stop what `task` waits for; asked again until it has."""
        ...

    def may_give_up(self, late_seconds: float) -> bool:
        """Return whether the end of a transaction may be left to itself so long after the deadline."""
        ...


def interruptible(method: Method) -> Method:
    """Wrap a session's method so that a cancelled call stops its query in the database before it returns."""

    @functools.wraps(method)
    async def guarded(session: Guarded, *args: Any, **kwargs: Any) -> Any:
        session.refuse_late_use()
        return await _run(method(session, *args, **kwargs), stop=session.stop)

    return cast("Method", guarded)


def committing(method: Method) -> Method:
    """Wrap a session's method so that a cancelled call runs to its end first; it raises when given up."""

    @functools.wraps(method)
    async def guarded(session: Guarded, *args: Any, **kwargs: Any) -> Any:
        return await _run_to_end(method(session, *args, **kwargs), session.may_give_up)

    return cast("Method", guarded)


def ending(method: Method) -> Method:
    """Wrap a session's method so that a cancelled call runs to its end first, or until it is given up.

    What it was to undo is undone by the loss of its connection.
    """

    @functools.wraps(method)
    async def guarded(session: Guarded, *args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(DeadlineExceededError):
            return await _run_to_end(method(session, *args, **kwargs), session.may_give_up)

    return cast("Method", guarded)


async def _run_to_end(call: Awaitable[T], may_give_up: Callable[[float], bool]) -> T:
    task = asyncio.ensure_future(cast("Coroutine[Any, Any, T]", call))
    left = seconds_left()
    if left is None:
        return await _wait(task, stop=None)
    patience = _Patience(task, may_give_up, left)
    try:
        return await _wait(task, stop=None)
    except asyncio.CancelledError as error:
        if patience.has_given_up and not cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
            raise DeadlineExceededError("The database did not answer in time.") from error
        raise
    finally:
        patience.end()


class _Patience:
    """Cancels a task, again and again, from the time on at which nobody has to wait for it any longer."""

    def __init__(self, task: asyncio.Task[Any], may_give_up: Callable[[float], bool], seconds: float) -> None:
        self._task = task
        self._may_give_up = may_give_up
        self._ends_at = time.monotonic() + seconds
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds + _FIRST_LOOK_SECONDS, self._look)
        self.has_given_up = False

    def _look(self) -> None:
        if self._may_give_up(time.monotonic() - self._ends_at):
            self.has_given_up = True
            self._task.cancel()
        self._timer = self._loop.call_later(_LOOK_AGAIN_SECONDS, self._look)

    def end(self) -> None:
        self._timer.cancel()


async def _run(call: Awaitable[T], *, stop: Stop) -> T:
    return await _wait(asyncio.ensure_future(cast("Coroutine[Any, Any, T]", call)), stop=stop)


async def _wait(task: asyncio.Task[T], *, stop: Stop | None) -> T:
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

"""Tasks that outlive the call that started them, supervised and flushed at the stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from backstay.errors import UsageError

__all__ = ["Supervisor"]

_logger = logging.getLogger("backstay.background")


class Supervisor:
    """Keep background tasks alive, log those that fail, and end them together.

    Args:
        grace: How long `async with` waits at its end for running tasks before it cancels them.
        context: Returns the context that a new task runs in: what starts it may end long before it does.
    """

    def __init__(
        self, *, grace: timedelta = timedelta(seconds=10), context: Callable[[], Context] = copy_context
    ) -> None:
        self._grace = grace
        self._context = context
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace.total_seconds())
        await self._cancel_rest()

    def limit_grace(self, seconds: float) -> None:
        """Wait no longer than this at the end, of what the grace allows."""
        self._grace = min(self._grace, timedelta(seconds=seconds))

    @property
    def is_open(self) -> bool:
        """Whether it takes tasks."""
        return self._is_open

    def start(self, work: Coroutine[Any, Any, object], *, name: str) -> asyncio.Task[object]:
        """Run a coroutine in the background.

        Args:
            work: What to run; its error is logged, not raised.
            name: Shown in logs.

        Raises:
            UsageError: The supervisor is not open.
        """
        if not self._is_open:
            work.close()
            raise UsageError(f"Background task {name!r} cannot start: the service is not running.")
        task: asyncio.Task[object] = asyncio.create_task(work, name=name, context=self._context())
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    def _finish(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("Background task %s failed.", task.get_name(), exc_info=error)

    async def _cancel_rest(self) -> None:
        rest = tuple(self._tasks)
        for task in rest:
            _logger.warning("Background task %s did not end in time and is cancelled.", task.get_name())
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

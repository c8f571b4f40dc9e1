"""A log line for each statement that took long, with the place in the service that sent it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from itertools import chain
from typing import ClassVar

from backstay.events import Event, QueryExecuted, QueryFailed
from backstay.telemetry._literals import strip_literals
from backstay.telemetry._places import current_frames, describe_frame, find_own_frame, frames_of

__all__ = ["SlowQueries"]

_logger = logging.getLogger("backstay.telemetry")


class SlowQueries:
    """Write a warning for each statement over a limit, without its values.

    Args:
        limit: Statements that take longer are logged.
        find_task: Returns the task that serves the current request, if there is one: statements run in tasks
            of their own, and the service's code is to be found there.
    """

    kinds: ClassVar[tuple[type[Event], ...]] = (QueryExecuted, QueryFailed)

    def __init__(self, limit: timedelta, *, find_task: Callable[[], asyncio.Task[object] | None]) -> None:
        self._limit_seconds = limit.total_seconds()
        self._find_task = find_task

    def hear(self, event: Event) -> None:
        """Log the statement if it was slow; a subscriber of events."""
        if isinstance(event, QueryExecuted | QueryFailed) and event.seconds > self._limit_seconds:
            self._tell(event)

    def _tell(self, event: QueryExecuted | QueryFailed) -> None:
        milliseconds = round(event.seconds * 1000)
        if isinstance(event, QueryFailed):
            message = f"A statement failed after {milliseconds} ms."
            facts: dict[str, object] = {"error": event.error}
        else:
            message, facts = f"A statement took {milliseconds} ms.", {}
        facts |= {"statement": strip_literals(event.statement), "milliseconds": milliseconds}
        place = self._find_place()
        if place is not None:
            facts["place"] = place
        _logger.warning(message, extra=facts)

    def _find_place(self) -> str | None:
        task = self._find_task()
        frame = find_own_frame(chain(current_frames(), frames_of(task) if task is not None else ()))
        return None if frame is None else describe_frame(frame)

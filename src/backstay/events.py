"""What happened, as typed facts for whoever watches: test assertions, telemetry, an inspector.

Subscribers are called in the task that caused the event, one after the other, and must neither block nor
raise; one that raises is logged. Nothing that correctness rests on goes through here, and it is no message
bus for a service's own events. With no subscriber, an event costs one truth test: emitters ask
`is_watched()` before they build one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = [
    "Event",
    "QueryExecuted",
    "RequestFinished",
    "RequestRepeated",
    "TransactionCommitted",
    "TransactionRolledBack",
    "emit",
    "is_watched",
    "subscribed",
]

_logger = logging.getLogger("backstay.events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryExecuted(Event):
    """A statement ran on a database connection; parameters are left out on purpose."""

    statement: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionCommitted(Event):
    """An outermost transaction is durable."""

    writes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionRolledBack(Event):
    """An outermost transaction that had begun was undone, or its end is unknown."""

    is_certain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRepeated(Event):
    """A repeatable request lost against another transaction and runs again."""

    route: str
    attempt: int
    """1 for the first repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(Event):
    """A request was answered, or its caller left."""

    request_id: str
    method: str
    route: str | None
    status: int
    seconds: float


_subscribers: tuple[Callable[[Event], None], ...] = ()


@contextmanager
def subscribed(subscriber: Callable[[Event], None]) -> Iterator[None]:
    """Call `subscriber` with each event of this process while the block runs."""
    global _subscribers  # noqa: PLW0603  a tuple that is replaced whole: readers need no lock
    _subscribers = (*_subscribers, subscriber)
    try:
        yield
    finally:
        _subscribers = tuple(other for other in _subscribers if other is not subscriber)


def is_watched() -> bool:
    """Return whether anybody listens."""
    return bool(_subscribers)


def emit(event: Event) -> None:
    """Hand an event to every subscriber."""
    for subscriber in _subscribers:
        try:
            subscriber(event)
        except Exception:
            _logger.exception("A subscriber failed on %s.", type(event).__name__)

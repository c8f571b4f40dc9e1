"""What happened, as typed facts for whoever watches: test assertions, telemetry, an inspector.

Subscribers are called in the task that caused the event, one after the other, and must neither block nor
raise; one that raises is logged. Nothing that correctness rests on goes through here, and it is no message
bus for a service's own events. With no subscriber to its kind, an event costs one look: emitters ask
`is_watched(kind)` before they build one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = [
    "CacheBypassed",
    "CacheEvent",
    "CacheHit",
    "CacheIncoherent",
    "CacheMissed",
    "CacheShared",
    "CacheUnavailable",
    "CacheValueRefused",
    "ConnectionAwaited",
    "Event",
    "IdempotencyKeyMet",
    "KeyOutcome",
    "QueryExecuted",
    "QueryFailed",
    "RequestFinished",
    "RequestLimited",
    "RequestRepeated",
    "TransactionCommitted",
    "TransactionRolledBack",
    "UpstreamCalled",
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
class QueryFailed(Event):
    """A statement was refused by the database, or stopped before its end."""

    statement: str
    seconds: float
    error: str
    """The name of the driver's error class; its message may hold values, and stays out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionAwaited(Event):
    """All connections of a pool were in use, and somebody waited for one, in vain or not."""

    pool: str
    """`writing` or `reading`."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionCommitted(Event):
    """An outermost transaction is durable."""

    writes: frozenset[str]
    """What it wrote, as the tags that `backstay.transaction` explains; empty when it only read."""
    seconds: float = field(default=0.0, compare=False)
    """How long the COMMIT took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionRolledBack(Event):
    """An outermost transaction that had begun was undone, or its end is unknown."""

    is_certain: bool
    seconds: float = field(default=0.0, compare=False)
    """How long the COMMIT took that failed; 0 when there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRepeated(Event):
    """A repeatable request lost against another transaction and runs again."""

    route: str
    attempt: int
    """1 for the first repetition."""


KeyOutcome: TypeAlias = Literal["replayed", "in_use", "reused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKeyMet(Event):
    """A request came with an idempotency key that another one has."""

    route: str
    outcome: KeyOutcome
    """It got the stored answer, it waited in vain for the other one's end, or it was a different request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimited(Event):
    """A rate limit refused a hit."""

    limit: str
    """Its template, `login:{ip}`; whose hit it was stays out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(Event):
    """A request was answered, or its caller left."""

    request_id: str
    method: str
    route: str | None
    status: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEvent(Event):
    """Something about a cached function; whose value it was stays out."""

    template: str
    """Of its key, `user:{user_id}`."""
    tables: tuple[str, ...] = ()
    """What it declares to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheHit(CacheEvent):
    """A value came from the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMissed(CacheEvent):
    """A value had to be loaded."""

    is_stored: bool
    """Whether it was stored; not when something changed meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShared(CacheEvent):
    """A value came with somebody else's load in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBypassed(CacheEvent):
    """A value was loaded past the cache."""

    reason: Literal["changed", "isolated", "fresh", "outbox"]
    """The session has changes, reads from a snapshot, was asked to, or changes are not yet delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheValueRefused(CacheEvent):
    """A value was served and not stored, or stored and not read."""

    reason: Literal["too_large", "unfaithful", "corrupt", "undeclared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheIncoherent(CacheEvent):
    """The auditor found a valid entry that differs from the database: a bug, or an unseen writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUnavailable(Event):
    """The store of the cache did not answer."""

    operation: str
    """What it was asked for: `read`, `fill`, `prepare`, `settle` or `forget`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamCalled(Event):
    """A call to another service ended: its answer was read, or it failed."""

    client: str
    """The name of the client."""
    method: str
    host: str
    """Whom it called; path and query stay out."""
    status: int | None
    """Of the answer; None when there was none."""
    error: str | None
    """The name of the class of what went wrong, without a message; None when nothing did."""
    attempts: int
    """1, and 1 for each time that it was tried again; 0 when nothing was sent."""
    seconds: float
    """From the call to the end of the answer's body, all attempts included."""


Subscriber = Callable[[Event], None]

# Both are replaced whole: readers need no lock.
_subscribers: tuple[tuple[Subscriber, tuple[type[Event], ...]], ...] = ()
_watched: frozenset[type[Event]] = frozenset()


@contextmanager
def subscribed(subscriber: Subscriber, *kinds: type[Event]) -> Iterator[None]:
    """Call `subscriber` with each event of this process while the block runs.

    Args:
        subscriber: What to call.
        kinds: Only with events of these classes; nobody then builds the others for its sake.
    """
    entry = (subscriber, kinds or (Event,))
    _replace_subscribers((*_subscribers, entry))
    try:
        yield
    finally:
        _replace_subscribers(tuple(other for other in _subscribers if other is not entry))


def _replace_subscribers(subscribers: tuple[tuple[Subscriber, tuple[type[Event], ...]], ...]) -> None:
    global _subscribers, _watched  # noqa: PLW0603  one list for the process, and what is in it
    _subscribers = subscribers
    _watched = frozenset(kind for _, kinds in subscribers for kind in kinds)


def is_watched(kind: type[Event] = Event) -> bool:
    """Return whether anybody listens to events of this class; without one, whether anybody listens at all."""
    return bool(_watched) if kind is Event else kind in _watched or Event in _watched


def emit(event: Event) -> None:
    """Hand an event to every subscriber of its kind."""
    for subscriber, kinds in _subscribers:
        if not isinstance(event, kinds):
            continue
        try:
            subscriber(event)
        except Exception:
            _logger.exception("A subscriber failed on %s.", type(event).__name__)

"""The unit of work's two faces: what a transaction offers, and what takes part in one.

`db` implements `Transaction`; whatever must live and die with the commit (a cache, an outbox) is a
`Participant`; `app` introduces them to each other: `Database(settings, participants=(cache,))`. Neither
imports the other, both import this page, and this page names no tool.

The order at the end of an outermost transaction (docs/decisions/0001-unit-of-work.md):

    flush -> prepare (each participant; raising rolls back) -> COMMIT -> settle (each participant) ->
    after_commit calls
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, ParamSpec, Protocol

from backstay.errors import UsageError

__all__ = ["Carrier", "Outcome", "Participant", "Source", "Transaction", "after_commit", "attach", "of"]

P = ParamSpec("P")

_KEY = "backstay.transaction"


class Outcome(Enum):
    """How an outermost transaction ended."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    UNKNOWN = "unknown"
    """The connection was lost, or a cancellation arrived, while COMMIT was under way."""


class Carrier(Protocol):
    """What a transaction is found by: an `AsyncSession` or a `Session` fits as it is."""

    @property
    def info(self) -> dict[Any, Any]:
        """The dictionary that holds the transaction."""
        ...


class Participant(Protocol):
    """Something that must agree with the database about each commit."""

    async def prepare(self, transaction: Transaction, tags: frozenset[str]) -> None:
        """Get ready for the COMMIT that follows; raising rolls the transaction back.

        Args:
            transaction: The transaction about to commit; everything is flushed.
            tags: What it wrote, as table names; `*` when a statement could not be read.
        """
        ...

    async def settle(self, transaction: Transaction, outcome: Outcome) -> None:
        """Learn how it ended; called once after each `prepare`, and an error is only logged."""
        ...


class Source(Protocol):
    """What a cached function declares to read: a Model class, or one row of it."""

    def tables(self) -> tuple[str, ...]:
        """Return the names of the tables read."""
        ...

    def tags(self, arguments: dict[str, Any]) -> tuple[str, ...]:
        """Return the tags that a call with these arguments depends on."""
        ...


class Transaction(ABC):
    """One outermost transaction of one session."""

    writes: set[str]
    """Names of the tables written so far; `*` stands for "unknown, so everything"."""

    @property
    @abstractmethod
    def changed(self) -> bool:
        """Whether the session holds changes, flushed or not, that others cannot see yet."""

    @property
    @abstractmethod
    def isolated(self) -> bool:
        """Whether reads come from a snapshot (REPEATABLE READ, SERIALIZABLE) instead of the latest commit."""

    @property
    @abstractmethod
    def holds_connection(self) -> bool:
        """Whether a database connection is checked out for this transaction now."""

    @abstractmethod
    def reader(self) -> AbstractAsyncContextManager[Carrier | None]:
        """Open a reading session of its own, connected on entry; None when no connection is free at once."""

    @abstractmethod
    def beside(self) -> AbstractAsyncContextManager[Carrier]:
        """Open a new session, with an empty identity map, on this transaction's own connection."""

    @abstractmethod
    def after_commit(self, call: Callable[..., object | Awaitable[object]], *args: object) -> None:
        """Call `call(*args)` once the outermost transaction has committed.

        Calls run one after the other, before the response leaves; an error is logged and changes no answer.
        A call made inside a savepoint that is rolled back is dropped with it.
        """


def attach(carrier: Carrier, transaction: Transaction) -> None:
    """Make `transaction` the one that `of(carrier)` finds."""
    carrier.info[_KEY] = transaction


def of(carrier: Carrier) -> Transaction:
    """Return the transaction of a session that backstay opened.

    Raises:
        UsageError: The session was opened by somebody else.
    """
    transaction = carrier.info.get(_KEY)
    if not isinstance(transaction, Transaction):
        raise UsageError(
            "This session was not opened by backstay: take it from SessionDep or `database.transaction()`."
        )
    return transaction


def after_commit(
    session: Carrier, call: Callable[P, object | Awaitable[object]], *args: P.args, **kwargs: P.kwargs
) -> None:
    """Call `call(*args, **kwargs)` once the session's outermost transaction has committed.

    The call may be a plain or an async function. It runs after COMMIT and before the response leaves; an
    error is logged and changes no answer. When the transaction, or the savepoint it was registered in, is
    rolled back, the call is dropped. Use it for what may be lost in a crash: sending a mail, waking a
    worker. A session that backstay did not open is refused.

    Raises:
        UsageError: The session was not opened by backstay.
    """
    of(session).after_commit(_bind(call, kwargs), *args)


def _bind(
    call: Callable[..., object | Awaitable[object]], kwargs: dict[str, Any]
) -> Callable[..., object | Awaitable[object]]:
    return (lambda *args: call(*args, **kwargs)) if kwargs else call

"""The unit of work's two faces: what a transaction offers, and what takes part in one.

`db` implements `Transaction`; whatever must live and die with the commit (a cache, an outbox) is a
`Participant`; `app` introduces them to each other: `Database(settings, participants=(cache,))`. Neither
imports the other, both import this page, and this page names no tool.

The order at the end of an outermost transaction (docs/decisions/0001-unit-of-work.md):

    flush -> prepare (each participant; raising rolls back) -> COMMIT -> settle (each participant) ->
    after_commit calls

What a transaction wrote, and what a reader depends on, are written in the same tags. Table names are in lower
case and without a schema, so that two spellings of one table meet:

    orders          some row of the table      each write of the table gives it
    orders:7        the row with that key      a write through the session's objects gives it
    orders:*        unknown rows of the table  a statement gives it that may touch many rows
    *               anything                   SQL text that writes gives it

    a reader of the row 7 depends on           orders:7, orders:*, *
    a reader of the table depends on           orders, *

So the write of a row leaves the readers of other rows alone, a statement over many rows reaches them all, and
either reaches the readers of the table. What the database does by itself through foreign keys (ON DELETE, ON
UPDATE) counts as a statement over the other table. Nobody sees what triggers, functions, COPY on the driver's
own connection and other programs write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from enum import Enum
from functools import lru_cache
from typing import Any, ParamSpec, Protocol, runtime_checkable
from urllib.parse import quote

from backstay.errors import ConfigurationError, UsageError

__all__ = [
    "EVERYTHING",
    "UNKNOWN_READS",
    "BlockingParticipant",
    "Carrier",
    "NamedTable",
    "Outcome",
    "Participant",
    "Readable",
    "Source",
    "Transaction",
    "after_commit",
    "attach",
    "observe_reads",
    "observing_reads",
    "of",
    "row_tag",
    "source_of",
    "table_tag",
    "unknown_rows_tag",
]

P = ParamSpec("P")

EVERYTHING = "*"
"""The tag of a write that nobody could read; every reader depends on it."""

UNKNOWN_READS = "?"
"""Stands among the tables that were read for those that nobody could see, as in SQL text."""

_KEY = "backstay.transaction"
_reads: ContextVar[set[str] | None] = ContextVar("backstay.reads", default=None)


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
    """Something that must agree with the database about each commit that wrote something."""

    @property
    def commit_bound(self) -> timedelta | None:
        """How long a transaction may stay open after `prepare` began; None for as long as it likes.

        PostgreSQL ends a transaction that idles for longer, and from version 17 on one that merely lasts:
        what `prepare` announced is then never committed. SQLite has no such bound.
        """
        ...

    async def prepare(self, transaction: Transaction, tags: frozenset[str]) -> None:
        """Get ready for the COMMIT that follows; raising rolls the transaction back.

        Args:
            transaction: The transaction about to commit; everything is flushed.
            tags: What it wrote, never empty; at a second commit of the same connection, what both wrote.
                Writes of a savepoint that was rolled back may be among them.
        """
        ...

    async def settle(self, transaction: Transaction, outcome: Outcome) -> None:
        """Learn how it ended, once, after the last `prepare`; an error is only logged."""
        ...


@runtime_checkable
class BlockingParticipant(Participant, Protocol):
    """A participant that blocking transactions can have too; without these two they are refused.

    Called on the thread of the transaction, where no event loop runs.
    """

    def prepare_blocking(self, transaction: Transaction, tags: frozenset[str]) -> None:
        """Get ready as `prepare` does; `transaction.note_blocking` leaves the work to the outbox."""
        ...

    def settle_blocking(self, transaction: Transaction, outcome: Outcome) -> None:
        """Learn how it ended as `settle` does."""
        ...


@runtime_checkable
class Source(Protocol):
    """What a cached function declares to read: the rows of a table, or one of them."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters of the function that say which row it is; none for a whole table."""
        ...

    def tables(self) -> tuple[str, ...]:
        """Return the tables read, named as in tags. Only complete once all models are imported."""
        ...

    def tags(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tags that a call with these arguments depends on."""
        ...


@runtime_checkable
class Readable(Protocol):
    """What knows its own source, such as a Model class."""

    def __backstay_source__(self) -> Source:
        """Return the source that stands for it."""
        ...


@runtime_checkable
class NamedTable(Protocol):
    """A table that is no class, such as SQLAlchemy's `Table`."""

    @property
    def name(self) -> Any:
        """Its name, without a schema."""
        ...

    @property
    def primary_key(self) -> Any:
        """Its key."""
        ...


def source_of(declared: Source | Readable | NamedTable) -> Source:
    """Return what a member of `reads` stands for: a Model class, `row(...)`, or a table.

    Raises:
        ConfigurationError: It is none of these.
    """
    if isinstance(declared, Source):
        return declared
    if isinstance(declared, Readable):
        return declared.__backstay_source__()
    if isinstance(declared, NamedTable):
        return _TableSource(table_tag(str(declared.name)))
    raise ConfigurationError(
        f"reads= takes models and rows of them, not {declared!r}.",
        hint='Write reads=[User] or reads=[row(User, "user_id")].',
    )


class _TableSource:
    """All rows of one table."""

    parameters: tuple[str, ...] = ()

    def __init__(self, table: str) -> None:
        self._table = table

    def tables(self) -> tuple[str, ...]:
        return (self._table,)

    def tags(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        return (self._table, EVERYTHING)


@lru_cache(maxsize=1000)
def table_tag(name: str) -> str:
    """Return the tag that each write of a table gives; `name` has no schema."""
    return quote(name.lower(), safe="")


def row_tag(table: str, key: str) -> str:
    """Return the tag of one row.

    Args:
        table: The table's own tag.
        key: The values of the primary key, encoded and without `*`.
    """
    return f"{table}:{key}"


def unknown_rows_tag(table: str) -> str:
    """Return the tag of a write whose rows are not known; `table` is the table's own tag."""
    return f"{table}:*"


class Transaction(ABC):
    """One outermost transaction of one session."""

    @property
    @abstractmethod
    def participants(self) -> Sequence[Participant]:
        """What takes part in the commits of this database."""

    @property
    @abstractmethod
    def writes(self) -> set[str]:
        """The tags of what was written so far, also in savepoints that were rolled back since.

        The library's own tables (`backstay_...`) are left out.
        """

    @property
    @abstractmethod
    def changed(self) -> bool:
        """Whether the session holds changes that others cannot see yet, or has locked rows to make some."""

    @property
    @abstractmethod
    def isolated(self) -> bool:
        """Whether reads come from a snapshot (REPEATABLE READ, SERIALIZABLE) instead of the latest commit."""

    @property
    @abstractmethod
    def holds_connection(self) -> bool:
        """Whether a database connection is checked out for this transaction now."""

    @abstractmethod
    def reader(self, *, may_wait: bool = False) -> AbstractAsyncContextManager[Carrier | None]:
        """Open a reading session of its own, connected on entry.

        Args:
            may_wait: Whether to wait for a connection; else None comes when none is free at once. Who holds
                one already must not wait: the others may be held by those who wait for it.
        """

    @abstractmethod
    def beside(self) -> AbstractAsyncContextManager[Carrier]:
        """Open a new session, with an empty identity map, on this transaction's own connection."""

    @abstractmethod
    async def note(self, topic: str, payload: str) -> None:
        """Leave work for after the commit in the outbox, in this same transaction: no crash loses it.

        A participant may do so while it prepares. Whoever relays the topic gets the payload once the
        transaction has committed, at least once, and never when it has not.

        Args:
            topic: What kind of work it is; at most 200 characters.
            payload: What the work is; anything that text can hold.
        """

    @abstractmethod
    def note_blocking(self, topic: str, payload: str) -> None:
        """Do what `note` does, in a blocking transaction."""

    @abstractmethod
    def after_commit(self, call: Callable[..., object | Awaitable[object]], *args: object) -> None:
        """Call `call(*args)` once the outermost transaction has committed.

        Calls run one after the other, before the response leaves; an error is logged and changes no answer.
        A call made inside a savepoint that is rolled back is dropped with it.
        """


@contextmanager
def observing_reads() -> Iterator[set[str]]:
    """Give the set that collects the tables which statements of this block read, named as in tags."""
    tables: set[str] = set()
    token = _reads.set(tables)
    try:
        yield tables
    finally:
        _reads.reset(token)


def observe_reads() -> set[str] | None:
    """Return the set that wants to know which tables are read here; None when nobody does."""
    return _reads.get()


def attach(carrier: Carrier, transaction: Transaction) -> None:
    """Make `transaction` the one that `of(carrier)` finds."""
    carrier.info[_KEY] = transaction


def of(carrier: Carrier) -> Transaction:
    """Return the transaction of a session that backstay opened.

    Raises:
        UsageError: The session was opened by somebody else.
    """
    transaction: Transaction | None = carrier.info.get(_KEY)
    if transaction is None:
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

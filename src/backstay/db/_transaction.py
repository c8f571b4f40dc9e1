"""The database's side of the keystone: collect writes, and run the end of each outermost transaction.

Two kinds of events do it. The session's say where an outermost transaction begins and ends (savepoints fire
most of them too: each handler looks). The engine's see every statement, whoever sent it, and the COMMIT
itself.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Protocol, cast

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPICursor, ExceptionContext, ExecutionContext
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.util.concurrency import await_, in_greenlet

from backstay import events
from backstay.db._errors import is_certain, sqlstate_of
from backstay.errors import TransactionAbortedError, UsageError
from backstay.transaction import Outcome, Participant, Transaction, attach, of

__all__ = ["UNCOUNTED", "DatabaseTransaction", "Owner", "begin_tracking", "watch_engine", "watch_sessions"]

_logger = logging.getLogger("backstay.db")

UNCOUNTED = "backstay.uncounted"
"""In the `info` of a table whose rows are bookkeeping: writing them changes nothing that anyone reads."""

_TRANSACTION = "backstay.transaction"
_FAILED = "backstay.failed"
_COMMITTING = "backstay.committing"
_BEGAN = "backstay.began"
_WRITING_WORDS = ("INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "WITH", "COPY", "TRUNCATE", "CALL", "DO")


class Owner(Protocol):
    """What a transaction needs of the database it belongs to."""

    participants: tuple[Participant, ...]

    def spare_reader(self) -> Any:  # an async context manager of AsyncSession | None
        """Open a reading session when a connection is free at once."""
        ...


class DatabaseTransaction(Transaction):
    """One outermost transaction of a session; the session's next one gets a new object."""

    def __init__(self, session: Session, owner: Owner, carrier: AsyncSession | None) -> None:
        self.session = session
        self.owner = owner
        self.carrier = carrier
        self.writes: set[str] = set()
        self.outcome: Outcome | None = None
        self.commit_error: BaseException | None = None
        self.commit_began: float | None = None
        self._has_begun = False
        self._is_prepared = False
        self._calls: list[tuple[SessionTransaction | None, Callable[..., object], tuple[object, ...]]] = []

    @property
    def has_work(self) -> bool:
        """Whether a commit would do anything."""
        return self.session.in_transaction() or bool(self._calls)

    @property
    def changed(self) -> bool:
        """Whether anything was written or waits to be flushed."""
        session = self.session
        return bool(self.writes or session.new or session.deleted or session.dirty)

    @property
    def isolated(self) -> bool:
        """Whether the transaction reads from a snapshot."""
        return self.session.info.get("isolation_level") in {"REPEATABLE READ", "SERIALIZABLE"}

    @property
    def holds_connection(self) -> bool:
        """Whether a connection is checked out."""
        return self._has_begun and self.outcome is None

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[AsyncSession | None]:
        """Open a reading session of its own, or None when no connection is free."""
        async with self.owner.spare_reader() as session:
            yield session

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[AsyncSession]:
        """Open a session with an empty identity map on this transaction's connection."""
        if self.carrier is None:
            raise UsageError("A blocking session has no session beside it.")
        connection = await self.carrier.connection()
        async with AsyncSession(
            connection, expire_on_commit=False, join_transaction_mode="rollback_only"
        ) as session:
            yield session

    def after_commit(self, call: Callable[..., object | Awaitable[object]], *args: object) -> None:
        """Call once the outermost transaction has committed."""
        self._calls.append((self.session.get_nested_transaction(), call, args))

    def begin(self, connection: Connection) -> None:
        """Take a connection's statements as this transaction's."""
        self._has_begun = True
        connection.info[_TRANSACTION] = self

    def drop_calls_of(self, savepoint: SessionTransaction) -> None:
        """Forget what was registered inside a savepoint that is rolled back."""
        self._calls = [call for call in self._calls if not _is_within(call[0], savepoint)]

    def prepare(self) -> None:
        """Flush, then let the participants get ready; raising here rolls back."""
        self.session.flush()
        if self.owner.participants and self._has_begun:
            if not in_greenlet():
                raise UsageError("What takes part in this database's commits is async: use `transaction()`.")
            self._is_prepared = True
            await_(self._prepare())

    async def _prepare(self) -> None:
        tags = frozenset(self.writes)
        for participant in self.owner.participants:
            await participant.prepare(self, tags)

    def end(self) -> None:
        """Settle the participants and run what waits for the commit."""
        if not self._has_begun and not self._calls:
            return
        self.outcome = self.outcome or self._outcome_of_failure()
        self._tell()
        if in_greenlet():
            await_(self._settle(self.outcome))
        else:
            self._settle_blocking()

    def _outcome_of_failure(self) -> Outcome:
        if self.commit_began is None or (self.commit_error is not None and is_certain(self.commit_error)):
            return Outcome.ROLLED_BACK
        return Outcome.UNKNOWN

    def _tell(self) -> None:
        if self.outcome is Outcome.COMMITTED:
            if events.is_watched(events.TransactionCommitted):
                events.emit(
                    events.TransactionCommitted(writes=frozenset(self.writes), seconds=self._commit_seconds())
                )
        elif events.is_watched(events.TransactionRolledBack):
            is_certain = self.outcome is Outcome.ROLLED_BACK
            events.emit(events.TransactionRolledBack(is_certain=is_certain, seconds=self._commit_seconds()))

    def _commit_seconds(self) -> float:
        return 0.0 if self.commit_began is None else perf_counter() - self.commit_began

    async def _settle(self, outcome: Outcome) -> None:
        for participant in self.owner.participants if self._is_prepared else ():
            try:
                await participant.settle(self, outcome)
            except Exception:
                _logger.exception("A participant failed to settle a %s transaction.", outcome.value)
        for call, args in self._take_calls():
            try:
                result = call(*args)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                _logger.exception("A call after the commit failed; the commit stands.")

    def _settle_blocking(self) -> None:
        for call, args in self._take_calls():
            try:
                _refuse_coroutine(call(*args))
            except Exception:
                _logger.exception("A call after the commit failed; the commit stands.")

    def _take_calls(self) -> list[tuple[Callable[..., object], tuple[object, ...]]]:
        calls, self._calls = self._calls, []
        return [call[1:] for call in calls] if self.outcome is Outcome.COMMITTED else []


def _refuse_coroutine(result: object) -> None:
    if inspect.iscoroutine(result):
        result.close()
        raise UsageError("An async function cannot run after a blocking commit: give a plain one.")


def _is_within(transaction: SessionTransaction | None, savepoint: SessionTransaction) -> bool:
    while transaction is not None:
        if transaction is savepoint:
            return True
        transaction = transaction.parent
    return False


def begin_tracking(session: Session, owner: Owner, carrier: AsyncSession | None) -> None:
    """Give a new session its transaction."""
    attach(session, DatabaseTransaction(session, owner, carrier))


def watch_sessions(session_class: type[Session]) -> None:
    """Follow each outermost transaction of a session class from its begin to its end."""
    event.listen(session_class, "after_begin", _after_begin)
    event.listen(session_class, "before_commit", _before_commit)
    event.listen(session_class, "after_commit", _after_commit)
    event.listen(session_class, "after_soft_rollback", _after_soft_rollback)
    event.listen(session_class, "after_transaction_end", _after_transaction_end)


def _current(session: Session) -> DatabaseTransaction:
    return cast("DatabaseTransaction", of(session))


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    _current(session).begin(connection)


def _before_commit(session: Session) -> None:
    if not session.in_nested_transaction():  # also fires when a savepoint is released
        _current(session).prepare()


def _after_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        _current(session).outcome = Outcome.COMMITTED
        session.info["backstay.has_committed"] = True


def _after_soft_rollback(session: Session, previous: SessionTransaction) -> None:
    if previous.nested:
        _current(session).drop_calls_of(previous)


def _after_transaction_end(session: Session, ended: SessionTransaction) -> None:
    if ended.nested or ended.parent is not None:
        return
    transaction = _current(session)
    begin_tracking(session, transaction.owner, transaction.carrier)
    session.info["backstay.ended"] = transaction
    transaction.end()


def watch_engine(engine: Engine) -> None:
    """Collect the tables that statements write, notice failed statements, and refuse to commit after one."""
    event.listen(engine, "before_cursor_execute", _before_statement)
    event.listen(engine, "after_cursor_execute", _after_statement)
    event.listen(engine, "handle_error", _notice_error)
    event.listen(engine, "begin", _forget_failure)
    event.listen(engine, "rollback_savepoint", _forget_failure)
    event.listen(engine, "commit", _before_commit_statement)
    event.listen(engine, "checkin", _release)


def _before_statement(
    connection: Connection,
    cursor: DBAPICursor,
    statement: str,
    parameters: object,
    context: ExecutionContext,
    *_: object,
) -> None:
    transaction = connection.info.get(_TRANSACTION)
    if transaction is not None:
        transaction.writes.update(_tables_written(statement, context))
    if events.is_watched(events.QueryExecuted) or events.is_watched(events.QueryFailed):
        connection.info[_BEGAN] = perf_counter()


def _tables_written(statement: str, context: ExecutionContext) -> tuple[str, ...]:
    compiled = getattr(context, "compiled", None)
    if isinstance(compiled, SQLCompiler):  # else it is DDL, or text for the driver
        if compiled.isinsert or compiled.isupdate or compiled.isdelete:
            table = compiled.statement.table  # type: ignore[union-attr]  # those three have one
            return () if UNCOUNTED in getattr(table, "info", ()) else (table.name,)
        if not compiled.isplaintext:
            return ()
    return ("*",) if statement.lstrip().upper().startswith(_WRITING_WORDS) else ()


def _after_statement(connection: Connection, cursor: DBAPICursor, statement: str, *_: object) -> None:
    began = connection.info.pop(_BEGAN, None)
    if began is not None:
        events.emit(events.QueryExecuted(statement=statement, seconds=perf_counter() - began))


def _notice_error(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None:
        return
    _tell_failure(connection, context)
    error = context.sqlalchemy_exception or context.original_exception
    if connection.info.get(_COMMITTING):
        _end_failed_commit(connection, error)
    elif _aborts_transaction(connection, error):
        connection.info[_FAILED] = True


def _aborts_transaction(connection: Connection, error: BaseException) -> bool:
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return False  # as in the autocommit block of a migration: each statement stands alone
    return connection.dialect.name != "postgresql" or sqlstate_of(error) is not None


def _tell_failure(connection: Connection, context: ExceptionContext) -> None:
    began = connection.info.pop(_BEGAN, None)
    if began is not None and context.statement is not None:
        # SQLAlchemy wraps what asyncpg raises in a class that says nothing.
        error = context.original_exception.__cause__ or context.original_exception
        name, seconds = type(error).__name__, perf_counter() - began
        events.emit(events.QueryFailed(statement=context.statement, seconds=seconds, error=name))


def _end_failed_commit(connection: Connection, error: BaseException) -> None:
    transaction = connection.info.get(_TRANSACTION)
    if transaction is not None:
        transaction.commit_error = error
    if connection.dialect.name == "sqlite":
        # SQLite keeps a transaction open whose COMMIT it refused, and SQLAlchemy takes it for ended: the
        # next user of the connection would find itself inside it, and everybody else would wait for its
        # lock.
        connection.connection.rollback()


def _forget_failure(connection: Connection, *_: object) -> None:
    connection.info.pop(_FAILED, None)
    connection.info.pop(_COMMITTING, None)


def _before_commit_statement(connection: Connection) -> None:
    if connection.info.pop(_FAILED, False):
        # Roll back first: an exception out of this event would hand the open transaction back to the pool,
        # and the next user's COMMIT would commit it.
        connection.connection.rollback()
        raise TransactionAbortedError(
            "A statement failed in this transaction and its error was swallowed, so there is nothing to "
            "commit: put what may fail into `async with session.begin_nested():`."
        )
    connection.info[_COMMITTING] = True
    transaction = connection.info.get(_TRANSACTION)
    if transaction is not None:
        transaction.commit_began = perf_counter()


def _release(connection: object, entry: Any) -> None:
    for key in (_TRANSACTION, _FAILED, _COMMITTING, _BEGAN):
        entry.info.pop(key, None)

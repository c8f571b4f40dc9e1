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
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, UOWTransaction
from sqlalchemy.util.concurrency import await_, greenlet_spawn, in_greenlet

from backstay import events
from backstay.db._commit_bound import bound_commit
from backstay.db._errors import explain_refused_value, is_certain, sqlstate_of
from backstay.db._outcome import find_outcome, read_number
from backstay.db._reading import ReaderSource
from backstay.db._reads import locks_rows, tables_read
from backstay.db._writes import Writes
from backstay.db.outbox import add_note
from backstay.deadline import current_call, without_deadline
from backstay.errors import TransactionAbortedError, UsageError
from backstay.transaction import (
    BlockingParticipant,
    Outcome,
    Participant,
    Transaction,
    attach,
    observe_reads,
    of,
)

__all__ = [
    "FINDS_OUTCOME",
    "DatabaseTransaction",
    "Owner",
    "begin_tracking",
    "watch_engine",
    "watch_sessions",
]

_logger = logging.getLogger("backstay.db")

_TRANSACTION = "backstay.transaction"
_FAILED = "backstay.failed"
_COMMITTING = "backstay.committing"
_BEGAN = "backstay.began"
FINDS_OUTCOME = "backstay.finds_outcome"
"""In the `info` of a session whose commits are to have a known outcome even when the connection was lost."""


class Owner(ReaderSource, Protocol):
    """What a transaction needs of the database it belongs to."""

    participants: tuple[Participant, ...]


class DatabaseTransaction(Transaction):
    """One outermost transaction of a session; the session's next one gets a new object."""

    def __init__(self, session: Session, owner: Owner, carrier: AsyncSession | None) -> None:
        self.session = session
        self.owner = owner
        self.carrier = carrier
        self.written = Writes()
        self.outcome: Outcome | None = None
        self.commit_error: BaseException | None = None
        self.commit_began: float | None = None
        self._connection: Connection | None = None
        self.has_locked = False
        self.is_settling = False
        self._number: int | None = None
        self._has_committed_before = False
        self._is_prepared = False
        self._calls: list[tuple[SessionTransaction | None, Callable[..., object], tuple[object, ...]]] = []

    @property
    def has_work(self) -> bool:
        """Whether a commit would do anything."""
        return self.session.in_transaction() or bool(self._calls)

    @property
    def writes(self) -> set[str]:
        """The tags of what was written so far."""
        return self.written.tags

    @property
    def changed(self) -> bool:
        """Whether anything was written, waits to be flushed, or was locked to be changed."""
        session = self.session
        return bool(self.writes or self.has_locked or session.new or session.deleted or session.dirty)

    @property
    def isolated(self) -> bool:
        """Whether the transaction reads from a snapshot."""
        return self.session.info.get("isolation_level") in {"REPEATABLE READ", "SERIALIZABLE"}

    @property
    def holds_connection(self) -> bool:
        """Whether a connection is checked out."""
        return self._connection is not None and self.outcome is None

    @property
    def participants(self) -> tuple[Participant, ...]:
        """What takes part in the commits of this database."""
        return self.owner.participants

    @asynccontextmanager
    async def reader(self, *, may_wait: bool = False) -> AsyncIterator[AsyncSession | None]:
        """Open a reading session of its own, or None when no connection is free."""
        async with self.owner.spare_reader(may_wait=may_wait) as session:
            yield session

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[AsyncSession]:
        """Open a session with an empty identity map on this transaction's connection."""
        if self.carrier is None:
            raise UsageError("A blocking session has no session beside it.")
        async with self.owner.reading_session_on(await self.carrier.connection(), self) as session:
            yield session

    async def note(self, topic: str, payload: str) -> None:
        """Leave work for after the commit in the outbox."""
        if self.carrier is None:
            raise UsageError("A blocking transaction leaves work with `note_blocking`.")
        if self._connection is None:
            await self.carrier.connection()
        # Not through the session, which takes no statement any more once its commit has begun.
        await greenlet_spawn(self.note_blocking, topic, payload)

    def note_blocking(self, topic: str, payload: str) -> None:
        """Leave work for after the commit in the outbox."""
        if self.outcome is not None:
            raise UsageError("This transaction has ended: there is nothing to add a note to.")
        connection = self._connection or self.session.connection()
        connection.execute(add_note(topic, payload))

    def after_commit(self, call: Callable[..., object | Awaitable[object]], *args: object) -> None:
        """Call once the outermost transaction has committed."""
        self._calls.append((self.session.get_nested_transaction(), call, args))

    @property
    def has_begun(self) -> bool:
        """Whether it ever had a connection."""
        return self._connection is not None

    @property
    def is_committing(self) -> bool:
        """Whether COMMIT was sent, and the server has not answered it."""
        return self.commit_began is not None and self.commit_error is None and self.outcome is None

    def begin(self, connection: Connection) -> None:
        """Take a connection's statements as this transaction's."""
        self._connection = connection
        connection.info[_TRANSACTION] = self

    def begin_again(self) -> None:
        """Note that the connection committed what the session still takes for one transaction."""
        if self.commit_began is not None and self.commit_error is None:
            self._has_committed_before = True

    def drop_calls_of(self, savepoint: SessionTransaction) -> None:
        """Forget what was registered inside a savepoint that is rolled back."""
        self._calls = [call for call in self._calls if not _is_within(call[0], savepoint)]

    def prepare(self, connection: Connection) -> None:
        """Let the participants get ready for a COMMIT; raising refuses it."""
        if self.session.info.get(FINDS_OUTCOME):
            self._number = read_number(connection)
        tags = frozenset(self.writes)
        if not self.owner.participants or not tags:
            return
        bound_commit(connection, self.owner.participants)
        self._is_prepared = True
        if in_greenlet():
            await_(self._prepare(tags))
            return
        for participant in self.owner.participants:
            _blocking(participant).prepare_blocking(self, tags)

    async def _prepare(self, tags: frozenset[str]) -> None:
        for participant in self.owner.participants:
            await participant.prepare(self, tags)

    def end(self) -> None:
        """Settle the participants and run what waits for the commit."""
        if self._connection is None and not self._calls:
            return
        self.is_settling = True
        try:
            self.outcome = self.outcome or self._find_outcome_of_failure()
            self._tell()
            if in_greenlet():
                await_(self._settle(self.outcome))
            else:
                self._settle_blocking(self.outcome)
        finally:
            self.is_settling = False

    def _find_outcome_of_failure(self) -> Outcome:
        outcome = self._outcome_of_failure()
        if outcome is Outcome.UNKNOWN and self._number is not None and not self._has_committed_before:
            return await_(find_outcome(self._number, open_session=self.owner.reading))
        return outcome

    def _outcome_of_failure(self) -> Outcome:
        if self._has_committed_before:
            return Outcome.UNKNOWN
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
                with without_deadline():  # it has to be done, however late the request is
                    result = call(*args)
                    if inspect.isawaitable(result):
                        await result
            except Exception:
                _logger.exception("A call after the commit failed; the commit stands.")

    def _settle_blocking(self, outcome: Outcome) -> None:
        for participant in self.owner.participants if self._is_prepared else ():
            try:
                _blocking(participant).settle_blocking(self, outcome)
            except Exception:
                _logger.exception("A participant failed to settle a %s transaction.", outcome.value)
        for call, args in self._take_calls():
            try:
                with without_deadline():
                    _refuse_coroutine(call(*args))
            except Exception:
                _logger.exception("A call after the commit failed; the commit stands.")

    def _take_calls(self) -> list[tuple[Callable[..., object], tuple[object, ...]]]:
        calls, self._calls = self._calls, []
        return [call[1:] for call in calls] if self.outcome is Outcome.COMMITTED else []


def _blocking(participant: Participant) -> BlockingParticipant:
    return cast("BlockingParticipant", participant)  # `sync_transaction` refuses any other


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
    event.listen(session_class, "do_orm_execute", _before_orm_statement)
    event.listen(session_class, "before_flush", _before_flush)
    event.listen(session_class, "after_flush", _after_flush)
    event.listen(session_class, "after_commit", _after_commit)
    event.listen(session_class, "after_soft_rollback", _after_soft_rollback)
    event.listen(session_class, "after_transaction_end", _after_transaction_end)


def _current(session: Session) -> DatabaseTransaction:
    return cast("DatabaseTransaction", of(session))


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    _current(session).begin(connection)


def _before_orm_statement(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        _current(state.session).written.add_orm_statement(state.statement)


def _before_flush(session: Session, flush: UOWTransaction, instances: object) -> None:
    _current(session).written.end_rows()


def _after_flush(session: Session, flush: UOWTransaction) -> None:
    _current(session).written.add_rows(flush)


def _after_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        transaction = _current(session)
        transaction.outcome = Outcome.COMMITTED
        session.info["backstay.has_committed"] = True
        if transaction.writes and (call := current_call()) is not None:
            call.has_committed = True


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
    event.listen(engine, "handle_error", explain_refused_value, retval=True)
    event.listen(engine, "begin", _begin)
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
        transaction.written.add_statement(statement, context)
        if " FOR " in statement:  # cheap to ask, and nearly always no
            transaction.has_locked |= locks_rows(context)
    reads = observe_reads()
    if reads is not None:
        reads.update(tables_read(context))
    if events.is_watched(events.QueryExecuted) or events.is_watched(events.QueryFailed):
        connection.info[_BEGAN] = perf_counter()


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


def _begin(connection: Connection) -> None:
    _forget_failure(connection)
    transaction = connection.info.get(_TRANSACTION)
    if transaction is not None:
        transaction.begin_again()


def _forget_failure(connection: Connection, *_: object) -> None:
    connection.info.pop(_FAILED, None)
    connection.info.pop(_COMMITTING, None)


def _before_commit_statement(connection: Connection) -> None:
    transaction = connection.info.get(_TRANSACTION)
    try:
        _refuse_after_failure(connection)
        if transaction is not None:
            transaction.prepare(connection)
    except BaseException:
        _roll_back(connection)
        raise
    connection.info[_COMMITTING] = True
    if transaction is not None:
        transaction.commit_began = perf_counter()


def _refuse_after_failure(connection: Connection) -> None:
    if connection.info.pop(_FAILED, False):
        raise TransactionAbortedError(
            "A statement failed in this transaction and its error was swallowed, so there is nothing to "
            "commit: put what may fail into `async with session.begin_nested():`."
        )


def _roll_back(connection: Connection) -> None:
    # SQLAlchemy takes the transaction for ended once its commit has raised, and hands the connection back
    # without a reset: the next user would find itself inside of it, and commit it.
    try:
        connection.connection.rollback()
    except BaseException:
        connection.connection.invalidate()
        raise


def _release(connection: object, entry: Any) -> None:
    for key in (_TRANSACTION, _FAILED, _COMMITTING, _BEGAN):
        entry.info.pop(key, None)

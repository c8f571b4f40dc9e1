"""The sessions that handlers get: real `AsyncSession`s that end cleanly when they are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from backstay.db._cancellation import committing, ending, interruptible
from backstay.db._transaction import DatabaseTransaction
from backstay.errors import ReadOnlySessionError, SessionEndedError
from backstay.transaction import of

__all__ = ["ReadingSession", "TransactionSession", "refuse_writes", "remember_connection"]

_CONNECTION = "backstay.connection"
_COMMIT_SECONDS = 5.0
"""How long after its deadline a request waits for the server's answer to COMMIT. Whether it has committed is
unknown then, so that is the last resort."""


class _GuardedSession(AsyncSession):
    """An `AsyncSession` whose cancelled calls leave no query behind and lose no connection."""

    execute = interruptible(AsyncSession.execute)
    scalar = interruptible(AsyncSession.scalar)  # type: ignore[assignment,arg-type]  # mypy gives up on it
    scalars = interruptible(AsyncSession.scalars)
    stream = interruptible(AsyncSession.stream)
    stream_scalars = interruptible(AsyncSession.stream_scalars)
    get = interruptible(AsyncSession.get)
    get_one = interruptible(AsyncSession.get_one)
    refresh = interruptible(AsyncSession.refresh)
    merge = interruptible(AsyncSession.merge)
    merge_all = interruptible(AsyncSession.merge_all)
    delete = interruptible(AsyncSession.delete)
    delete_all = interruptible(AsyncSession.delete_all)
    flush = interruptible(AsyncSession.flush)
    connection = interruptible(AsyncSession.connection)
    run_sync = interruptible(AsyncSession.run_sync)
    commit = committing(AsyncSession.commit)
    rollback = ending(AsyncSession.rollback)
    invalidate = ending(AsyncSession.invalidate)
    _close_transaction = ending(AsyncSession.close)

    is_ended = False

    def refuse_late_use(self) -> None:
        """Do nothing while the session lives.

        Raises:
            SessionEndedError: It was closed.
        """
        if self.is_ended:
            raise SessionEndedError(
                "This session's unit of work has ended: background tasks and streamed bodies open "
                "`database.transaction()` or `database.reading()` themselves."
            )

    def stop(self, task: asyncio.Task[Any]) -> None:
        """Make the database stop what `task` waits for."""
        if self.get_bind().dialect.name != "sqlite":
            if not task.cancelling():  # once: the driver needs its time to tell the server
                task.cancel()
            return
        connection: Connection | None = self.info.get(_CONNECTION)
        if connection is not None and not connection.closed:
            driver: Any = connection.connection.driver_connection
            driver._conn.interrupt()  # noqa: SLF001  aiosqlite wraps it in a coroutine

    def may_give_up(self, late_seconds: float) -> bool:
        """Return whether its end may be left to itself so long after the deadline."""
        return True

    async def close(self) -> None:
        """End the session for good; what is not committed is rolled back."""
        self.is_ended = True
        if self.in_transaction():
            await self._close_transaction()
        else:
            self.sync_session.close()  # nothing to tell the database: no task, no greenlet


class TransactionSession(_GuardedSession):
    """A session that writes: its outermost transaction is tracked from begin to end."""

    @property
    def ended(self) -> DatabaseTransaction | None:
        """The outermost transaction that ended last; it knows its outcome."""
        return cast("DatabaseTransaction | None", self.info.get("backstay.ended"))

    @property
    def has_committed(self) -> bool:
        """Whether any transaction of this session was committed."""
        return bool(self.info.get("backstay.has_committed"))

    def may_give_up(self, late_seconds: float) -> bool:
        """Return whether its end may be left to itself: a COMMIT gets more time, what follows it all."""
        if self.ended is not None and self.ended.is_settling:
            return False
        transaction = of(self)
        is_committing = isinstance(transaction, DatabaseTransaction) and transaction.is_committing
        return not is_committing or late_seconds >= _COMMIT_SECONDS

    async def complete(self) -> None:
        """Commit unless there is nothing to commit."""
        transaction = of(self)
        if isinstance(transaction, DatabaseTransaction) and transaction.has_work:
            await self.commit()


class ReadingSession(_GuardedSession):
    """A session that only reads: it is autocommit, holds no snapshot, and refuses to write."""


def remember_connection(session_class: type[Session]) -> None:
    """Let sessions of a class know their connection, to interrupt it."""
    event.listen(session_class, "after_begin", _remember_connection)


def _remember_connection(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    session.info[_CONNECTION] = connection


def refuse_writes(session_class: type[Session]) -> None:
    """Make sessions of a class refuse to write, before the database does and with a clearer message."""
    event.listen(session_class, "before_flush", _refuse_flush)
    event.listen(session_class, "do_orm_execute", _refuse_statement)


def _refuse_flush(session: Session, context: Any, instances: Sequence[object] | None) -> None:
    if session.new or session.deleted or any(session.is_modified(changed) for changed in session.dirty):
        raise ReadOnlySessionError(_REFUSAL)


def _refuse_statement(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        raise ReadOnlySessionError(_REFUSAL)


_REFUSAL = "This session only reads: write through SessionDep or `database.transaction()`."

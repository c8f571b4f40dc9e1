"""`Database`: one address, one set of pools, and the sessions and transactions that come out of them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import cached_property
from typing import Literal, cast

from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from backstay.db import _engine
from backstay.db._admission import Places
from backstay.db._commit_watch import CommitWatch
from backstay.db._pool import NoSpareConnectionError, PoolUse, WatchedPool, pool_use, without_waiting
from backstay.db._reading import ReadingTransaction
from backstay.db._session import ReadingSession, TransactionSession, refuse_writes, remember_connection
from backstay.db._transaction import FINDS_OUTCOME, begin_tracking, watch_engine, watch_sessions
from backstay.db.version import count_bulk_updates
from backstay.errors import UsageError
from backstay.settings import DatabaseSettings
from backstay.transaction import BlockingParticipant, Participant, Transaction, attach

__all__ = ["Database", "IsolationLevel"]

IsolationLevel = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


class Database:
    """A database and the ways to use it.

    Nothing is connected until the first use; `close()` disconnects. The same object serves async code
    (`transaction`, `reading`) and blocking code (`sync_transaction`, `sync_reading`; on PostgreSQL they
    need the extra `sync`).

    Args:
        settings: Address, pools and time limits.
        participants: What must agree with each commit, such as a cache; asked in this order.

    Raises:
        ConfigurationError: The address is not one of SQLite or PostgreSQL.
    """

    def __init__(self, settings: DatabaseSettings, *, participants: Sequence[Participant] = ()) -> None:
        url = _engine.resolve_url(settings)
        self._temporary = _engine.temporary_file() if settings.is_in_memory else None
        self.url = url if self._temporary is None else url.set(database=str(self._temporary), query={})
        self.settings = settings
        self.participants: tuple[Participant, ...] = tuple(participants)
        self._watches: list[CommitWatch] = []
        self.engine, self.read_engine = _engine.create_engines(self.url, settings)
        self._places = Places()
        for engine in (self.engine, self.read_engine):
            cast("WatchedPool", engine.pool).open_to(self._places)
        # Classes of this database's own: listeners belong to it, not to every session of the process.
        self._session_class = type("TransactionCore", (Session,), {})
        self._read_session_class = type("ReadingCore", (Session,), {})
        watch_sessions(self._session_class)
        count_bulk_updates(self._session_class)
        refuse_writes(self._read_session_class)
        if not self.is_postgresql:
            remember_connection(self._session_class)
            remember_connection(self._read_session_class)
        watch_engine(self.engine.sync_engine)
        watch_engine(self.read_engine.sync_engine)

    engine: AsyncEngine
    read_engine: AsyncEngine

    @property
    def is_postgresql(self) -> bool:
        """Whether the database is PostgreSQL; otherwise it is SQLite."""
        return self.url.get_backend_name() == "postgresql"

    def session(
        self, *, isolation: IsolationLevel | None = None, finds_outcome: bool = False
    ) -> TransactionSession:
        """Return a session that the caller commits and closes; most code wants `transaction()`.

        Args:
            isolation: For PostgreSQL; the server's default (READ COMMITTED) when None. Writing transactions
                of SQLite run one at a time and need none.
            finds_outcome: For PostgreSQL: ask the server, before each COMMIT, for the transaction's number,
                and with it afterwards how it has ended when the connection was lost.
        """
        options = {"isolation_level": isolation} if isolation and self.is_postgresql else None
        session = TransactionSession(
            self.engine,
            sync_session_class=self._session_class,
            expire_on_commit=False,
            close_resets_only=False,
            info={
                "isolation_level": isolation or ("READ COMMITTED" if self.is_postgresql else "SERIALIZABLE"),
                FINDS_OUTCOME: finds_outcome and self.is_postgresql,
            },
            execution_options=options,
        )
        begin_tracking(session.sync_session, self, session)
        return session

    def reading_session(self) -> ReadingSession:
        """Return a session that only reads and that the caller closes; most code wants `reading()`."""
        session = ReadingSession(
            self.read_engine,
            sync_session_class=self._read_session_class,
            expire_on_commit=False,
            close_resets_only=False,
        )
        attach(session, ReadingTransaction(session, self))
        return session

    @asynccontextmanager
    async def transaction(self, *, isolation: IsolationLevel | None = None) -> AsyncIterator[AsyncSession]:
        """Open a session that commits at the end of the block, or rolls back when the block raises.

        On SQLite the transaction takes the write lock when it begins, and waits for it up to `busy_timeout`.

        Args:
            isolation: PostgreSQL's isolation level; READ COMMITTED when None.
        """
        session = self.session(isolation=isolation)
        try:
            yield session
            await session.complete()
        finally:
            await session.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """Open a session that only reads.

        Each statement sees the latest commit; a write is refused, by the session and by the database itself.
        """
        session = self.reading_session()
        try:
            yield session
        finally:
            await session.close()

    @asynccontextmanager
    async def spare_reader(self, *, may_wait: bool = False) -> AsyncIterator[AsyncSession | None]:
        """Open a reading session that is connected already.

        Args:
            may_wait: Whether to wait for a connection; else None comes when none is free at once.
        """
        async with self.reading() as session:
            try:
                with nullcontext() if may_wait else without_waiting():
                    await session.connection()
            except NoSpareConnectionError:
                yield None
                return
            yield session

    def reading_session_on(self, connection: AsyncConnection, transaction: Transaction) -> ReadingSession:
        """Return a session with an empty identity map that only reads, on a connection that is held already.

        Args:
            connection: It stays as it is when the session is closed.
            transaction: Whose connection it is; `of(session)` finds it.
        """
        session = ReadingSession(
            connection,
            sync_session_class=self._read_session_class,
            expire_on_commit=False,
            close_resets_only=False,
            join_transaction_mode="rollback_only",
        )
        attach(session, transaction)
        return session

    @contextmanager
    def sync_transaction(self) -> Iterator[Session]:
        """Open a blocking session whose work is committed at the end of the block; for scripts and notebooks.

        Raises:
            ConfigurationError: PostgreSQL without the extra `sync`.
            UsageError: What takes part in this database's commits cannot do so from blocking code.
        """
        for participant in self.participants:
            if not isinstance(participant, BlockingParticipant):
                raise UsageError(
                    f"{type(participant).__name__} takes part in this database's commits and has no "
                    "prepare_blocking and settle_blocking: use `transaction()`."
                )
        session = self._session_class(self.sync_engine, expire_on_commit=False, close_resets_only=False)
        begin_tracking(session, self, None)
        try:
            yield session
            session.commit()
        finally:
            session.close()

    @contextmanager
    def sync_reading(self) -> Iterator[Session]:
        """Open a blocking session that refuses to write."""
        session = self._read_session_class(
            self.sync_engine.execution_options(sqlite_begin="DEFERRED"),
            expire_on_commit=False,
            close_resets_only=False,
        )
        try:
            yield session
        finally:
            session.close()

    @cached_property
    def sync_engine(self) -> Engine:
        """The blocking engine, made at its first use."""
        engine = _engine.create_sync(self.url, self.settings)
        watch_engine(engine)
        return engine

    def pools(self) -> tuple[PoolUse, ...]:
        """Return how full the pools of the asynchronous engines are at this moment."""
        return pool_use(self.engine), pool_use(self.read_engine)

    def watch_commits(self) -> CommitWatch:
        """Return what tells whether anybody has committed to this SQLite file; closed with the database."""
        watch = CommitWatch(str(self.url.database))
        self._watches.append(watch)
        return watch

    def keep_place(self) -> None:
        """Let the current request keep its place among those with connections, until `let_place_go`."""
        self._places.keep()

    def let_place_go(self) -> None:
        """Let the current request give its place back when it has no connection."""
        self._places.let_go()

    async def connection_limit(self) -> int | None:
        """Return how many connections the server allows to everybody together; None on SQLite."""
        if not self.is_postgresql:
            return None
        async with self.reading() as session:
            return int(await session.scalar(text("SELECT current_setting('max_connections')::int")) or 0)

    async def check(self) -> None:
        """Ask the database a trivial question; an error is the answer "not ready"."""
        async with self.reading() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Disconnect; a database in memory is gone."""
        for watch in self._watches:
            watch.close()
        await self.engine.dispose()
        await self.read_engine.dispose()
        if "sync_engine" in self.__dict__:
            self.sync_engine.dispose()
        if self._temporary is not None:
            shutil.rmtree(self._temporary.parent, ignore_errors=True)

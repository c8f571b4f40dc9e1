"""The door to migrations: read the history, run it, write the next file."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
from sqlalchemy import MetaData
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backstay.db.migrations._errors import (
    MigrationError,
    MigrationsLockedError,
    MigrationsPendingError,
    MultipleHeadsError,
    UnknownRevisionError,
)
from backstay.db.migrations._history import History, read_current, read_history
from backstay.db.migrations._locking import migrating_alone
from backstay.db.migrations._revision import Revision
from backstay.errors import UsageError

__all__ = ["Migrations"]

_logger = logging.getLogger("backstay.db.migrations")

# Alembic's `op` is one for the process: two runs at once would send one's statements to the other's database.
_OP = threading.Lock()
_INTERRUPT_SECONDS = 0.05

T = TypeVar("T")


class Migrations:
    """The migrations of a service, in `<directory>/versions`.

    The asynchronous methods take an engine and never block the loop. Those named `..._on` take a connection
    that is in no transaction, for scripts and tests. Every run takes a lock, so any number of processes may
    upgrade at once, and each migration has a transaction of its own, on SQLite too.

    Args:
        metadata: Where the models' tables are: `Model.metadata`. Import the models before you write one.
        directory: The folder that holds `versions`; it need not exist before the first migration is written.
        lock_wait: How long to wait for another process that is migrating.
    """

    def __init__(
        self, metadata: MetaData, directory: Path, *, lock_wait: timedelta = timedelta(minutes=5)
    ) -> None:
        self._metadata = metadata
        self._versions = Path(directory).absolute() / "versions"
        self._lock_wait = lock_wait

    def history(self) -> tuple[Revision, ...]:
        """Return all migrations, newest first.

        Raises:
            MigrationError: A file cannot be read, or the files do not fit together.
        """
        return tuple(reversed(self._history().revisions))

    def heads(self) -> tuple[Revision, ...]:
        """Return the migrations that no other follows; one, unless two people wrote one at the same time."""
        return self._history().heads

    async def current(self, engine: AsyncEngine) -> tuple[Revision, ...]:
        """Return the migrations that the database is at; none before the first."""
        return await _on_connection(engine, self.current_on)

    def current_on(self, connection: Connection) -> tuple[Revision, ...]:
        """Return the migrations that the database is at; none before the first.

        Raises:
            UnknownRevisionError: The database was migrated by other code.
        """
        return self._history().find(read_current(connection))

    async def pending(self, engine: AsyncEngine) -> tuple[Revision, ...]:
        """Return the migrations that the database lacks, in the order of running."""
        return await _on_connection(engine, self.pending_on)

    def pending_on(self, connection: Connection) -> tuple[Revision, ...]:
        """Return the migrations that the database lacks, in the order of running.

        Raises:
            UnknownRevisionError: The database was migrated by other code.
        """
        return self._history().pending(read_current(connection))

    async def require_current(self, engine: AsyncEngine) -> None:
        """Refuse a database that is behind the files.

        One that is ahead of them passes with a warning: during a deployment the old code must still start.

        Raises:
            MigrationsPendingError: Migrations are pending.
        """
        try:
            pending = await self.pending(engine)
        except UnknownRevisionError as error:
            _logger.warning("%s", error)
            return
        if pending:
            raise MigrationsPendingError(pending)

    async def upgrade(self, engine: AsyncEngine, *, revision: str = "head") -> tuple[Revision, ...]:
        """Run the pending migrations; see `upgrade_on`."""
        async with _op_in_turn():
            return await _on_connection(engine, partial(self._move, "upgrade", revision))

    def upgrade_on(self, connection: Connection, *, revision: str = "head") -> tuple[Revision, ...]:
        """Run the pending migrations and return those that ran, in order.

        Args:
            connection: One that is in no transaction.
            revision: Where to go: `head`, an id or its beginning, or a number of steps such as `+1`.

        Raises:
            MigrationError: A migration failed and was rolled back, the target is unknown, another process
                holds the lock; see the error's class.
        """
        with self._op_for_us():
            return self._move("upgrade", revision, connection)

    async def downgrade(self, engine: AsyncEngine, *, revision: str) -> tuple[Revision, ...]:
        """Take migrations back; see `downgrade_on`."""
        async with _op_in_turn():
            return await _on_connection(engine, partial(self._move, "downgrade", revision))

    def downgrade_on(self, connection: Connection, *, revision: str) -> tuple[Revision, ...]:
        """Take migrations back and return those taken back, in order.

        Args:
            connection: One that is in no transaction.
            revision: Where to go: `base`, an id or its beginning, or a number of steps such as `-1`.

        Raises:
            MigrationError: As for `upgrade_on`.
        """
        with self._op_for_us():
            return self._move("downgrade", revision, connection)

    async def revision(self, engine: AsyncEngine, *, message: str, autogenerate: bool = True) -> Path:
        """Write the next migration and return its path; see `revision_on`."""
        return await _on_connection(
            engine, partial(self.revision_on, message=message, autogenerate=autogenerate)
        )

    def revision_on(self, connection: Connection, *, message: str, autogenerate: bool = True) -> Path:
        """Write the next migration and return its path.

        Tables that no model declares are left alone, and named in a warning.

        Args:
            connection: One that is in no transaction, on a database that has all migrations so far.
            message: What it does, for its name and docstring.
            autogenerate: Whether to write what differs between the models and the database; else it is empty.

        Raises:
            MigrationsPendingError: The database is behind, so the difference would contain what is written.
            NothingToMigrateError: Models and database agree; no file was written.
        """
        from backstay.db.migrations import _environment  # noqa: PLC0415 - Alembic is paid for when it is used

        history = self._history()
        if not any(character.isalnum() for character in message):
            raise MigrationError("A migration needs a message, for its name.")
        if len(history.heads) > 1:
            raise MultipleHeadsError(history.heads)
        with _left_as_found(connection):
            if autogenerate and (pending := history.pending(read_current(connection))):
                raise MigrationsPendingError(pending)
            compared = connection if autogenerate else None
            return _environment.write_revision(
                compared, self._versions, metadata=self._metadata, message=message
            )

    def _history(self) -> History:
        return read_history(self._versions)

    def _move(
        self, direction: Literal["upgrade", "downgrade"], revision: str, connection: Connection
    ) -> tuple[Revision, ...]:
        from backstay.db.migrations import _environment  # noqa: PLC0415 - Alembic is paid for when it is used

        history = self._history()
        if len(history.heads) > 1 and (revision == "head" or revision.startswith("+")):
            raise MultipleHeadsError(history.heads)
        with _left_as_found(connection):
            history.find(read_current(connection))
        move = _environment.upgrade if direction == "upgrade" else _environment.downgrade
        with migrating_alone(connection, wait=self._lock_wait):
            ids = move(connection, self._versions, history, target=revision, wait=self._lock_wait)
        revisions = {one.id: one for one in history.revisions}
        return tuple(revisions[one] for one in ids)

    @contextmanager
    def _op_for_us(self) -> Iterator[None]:
        if not _OP.acquire(timeout=self._lock_wait.total_seconds()):
            raise MigrationsLockedError(self._lock_wait)
        try:
            yield
        finally:
            _OP.release()


async def _on_connection(engine: AsyncEngine, act: Callable[[Connection], T]) -> T:
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            return await _interruptible(connection, act)
        return await connection.run_sync(act)


async def _interruptible(connection: AsyncConnection, act: Callable[[Connection], T]) -> T:
    # A cancelled query of aiosqlite leaves its statement open, and with it the lock on the whole database. So
    # the work is told to stop, ends as after any failure, and only then is the cancellation passed on.
    driver: Any = (await connection.get_raw_connection()).driver_connection
    work = asyncio.ensure_future(connection.run_sync(act))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            while not work.done():
                await driver.interrupt()
                await asyncio.wait({work}, timeout=_INTERRUPT_SECONDS)
        work.exception()  # seen: it says that it was interrupted
        raise


@contextmanager
def _left_as_found(connection: Connection) -> Iterator[None]:
    if connection.in_transaction():
        raise UsageError("Migrations need a connection that is in no transaction: they begin their own.")
    try:
        yield
    finally:
        connection.rollback()


@asynccontextmanager
async def _op_in_turn() -> AsyncIterator[None]:
    while not _OP.acquire(blocking=False):  # noqa: ASYNC110 - a lock of threads wakes no loop
        await asyncio.sleep(0.02)
    try:
        yield
    finally:
        _OP.release()

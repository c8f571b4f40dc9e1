"""The door to migrations: read the history, run it, write the next file."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
from sqlalchemy import MetaData, Table
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import Unpack

from backstay.db.migrations._errors import (
    MigrationError,
    MigrationsLockedError,
    MigrationsPendingError,
    MultipleHeadsError,
    UnknownRevisionError,
)
from backstay.db.migrations._history import History, read_current, read_history
from backstay.db.migrations._limits import limited
from backstay.db.migrations._locking import migrating_alone
from backstay.db.migrations._revision import MergeOptions, PlaceOptions, Revision
from backstay.db.model import NAMING_CONVENTION
from backstay.errors import UsageError
from backstay.settings import MigrationSettings

if TYPE_CHECKING:
    from backstay.db.migrations.lint import LintReport

__all__ = ["Migrations"]

_logger = logging.getLogger("backstay.db.migrations")

# Alembic's `op` is one for the process: two runs at once would send one's statements to the other's database.
_OP = threading.Lock()
_INTERRUPT_SECONDS = 0.05
_FEWEST_TO_MERGE = 2

T = TypeVar("T")


class Migrations:
    """The migrations of a service, in `<directory>/versions`.

    The asynchronous methods take an engine and never block the loop. Those named `..._on` take a connection
    that is in no transaction, for scripts and tests. Every run takes a lock, so any number of processes may
    upgrade at once, and each migration has a transaction of its own, on SQLite too.

    Args:
        metadata: Where the models' tables are: `Model.metadata`. Import the models before you write one.
        directory: The folder that holds `versions`; it need not exist before the first migration is written.
        settings: Time limits, attempts, and the tables that are somebody else's; the defaults when None.
        library_tables: Those of the library's own tables that the service uses, and so brings along.
    """

    def __init__(
        self,
        metadata: MetaData,
        directory: Path,
        *,
        settings: MigrationSettings | None = None,
        library_tables: Iterable[Table] = (),
    ) -> None:
        self._metadata = (metadata, *_apart(library_tables))
        self._versions = Path(directory).absolute() / "versions"
        self._settings = settings or MigrationSettings()

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
            revision: Where to go: `head`, an id or its beginning, a number of steps such as `+1`, `heads` for
                all branches, or `label@head` for one.

        Raises:
            MigrationError: A migration failed, did not get its locks or left a part behind, the target is
                unknown, another process holds the lock; see the error's class.
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
            revision: Where to go: `base`, an id or its beginning, a number of steps such as `-1`, or within
                one branch `label@-1` and `label@base`.

        Raises:
            MigrationError: As for `upgrade_on`.
        """
        with self._op_for_us():
            return self._move("downgrade", revision, connection)

    async def revision(
        self,
        engine: AsyncEngine,
        *,
        message: str,
        autogenerate: bool = True,
        drop: Collection[str] = (),
        **options: Unpack[PlaceOptions],
    ) -> Path:
        """Write the next migration and return its path; see `revision_on`."""
        write = partial(self.revision_on, message=message, autogenerate=autogenerate, drop=drop, **options)
        return await _on_connection(engine, write)

    def revision_on(
        self,
        connection: Connection,
        *,
        message: str,
        autogenerate: bool = True,
        drop: Collection[str] = (),
        **options: Unpack[PlaceOptions],
    ) -> Path:
        """Write the next migration and return its path.

        Args:
            connection: One that is in no transaction, on a database that has all migrations so far.
            message: What it does, for its name and docstring.
            autogenerate: Whether to write what differs between the models and the database; else it is empty.
            drop: Tables to drop that no model declares any more; the downgrade makes them again, empty.
            **options: `head`, what it follows, `head` unless told: an id, `label@head`, `base` for one that
                follows none. `splice` lets that be one that others follow already. `branch_label` names the
                branch that begins with it, `depends_on` revisions of other branches that it needs.

        Raises:
            MigrationsPendingError: The database is behind, so the difference would contain what is written.
            MultipleHeadsError: It is not said which of the heads it follows.
            NothingToMigrateError: Models and database agree; no file was written.
            UndeclaredTablesError: The database has tables that no model declares.
            UndroppableTableError: A table in `drop` is declared by a model, or is not there.
        """
        from backstay.db.migrations import _writing  # noqa: PLC0415 - Alembic is paid for when it is used

        history = self._history()
        _refuse_empty(message)
        place = _writing.Place(**options)
        if place.head == "head" and len(history.heads) > 1:
            raise MultipleHeadsError(history.heads)
        body = _writing.Body()
        with _left_as_found(connection):
            if autogenerate:
                self._refuse_pending(connection, history)
                body = _writing.render_differences(
                    connection, self._metadata, drop=drop, foreign=self._settings.foreign_tables
                )
        return _writing.write_file(self._versions, history, message=message, place=place, body=body)

    def merge(
        self, *, message: str = "merge", revisions: Sequence[str] = (), **options: Unpack[MergeOptions]
    ) -> Path:
        """Write a migration that joins branches and does nothing else; return its path. No database is asked.

        Args:
            message: What it does, for its name and docstring.
            revisions: What it joins: ids, branch labels, `label@head`. All heads when empty.
            **options: `branch_label` names what follows it; `splice` lets it join what others follow already.

        Raises:
            MigrationError: There are fewer than two, one of them is unknown, or is no head.
        """
        from backstay.db.migrations import _writing  # noqa: PLC0415 - Alembic is paid for when it is used

        history = self._history()
        _refuse_empty(message)
        joined = _writing.resolve(self._versions, history, tuple(revisions) or ("heads",))
        if len(joined) < _FEWEST_TO_MERGE:
            raise MigrationError(
                "There is nothing to merge: a merge joins two migrations or more.",
                hint="`backstay db history` lists them.",
            )
        place = _writing.Place(head=joined, **options)
        return _writing.write_file(
            self._versions, history, message=message, place=place, body=_writing.Body()
        )

    async def check(self, engine: AsyncEngine) -> tuple[str, ...]:
        """Return what keeps files, database and models from agreeing; see `check_on`."""
        return await _on_connection(engine, self.check_on)

    def check_on(self, connection: Connection) -> tuple[str, ...]:
        """Return what keeps files, database and models from agreeing, one line each; none when they agree.

        Several heads, pending migrations, and whatever differs between the models and the database, CHECK
        constraints included. The models are compared when nothing is pending: before, they differ by what is.

        Args:
            connection: One that is in no transaction. Nothing is changed.

        Raises:
            UnknownRevisionError: The database was migrated by other code.
        """
        history = self._history()
        findings = [f"head {head.path.name}: one of {len(history.heads)}" for head in history.heads]
        findings = findings if len(history.heads) > 1 else []
        with _left_as_found(connection):
            pending = history.pending(read_current(connection))
            if pending:
                findings += [f"migration {revision.path.name}: pending" for revision in pending]
                return tuple(findings)
            from backstay.db.migrations import _drift  # noqa: PLC0415 - Alembic is paid for when it is used

            drift = _drift.describe_drift(connection, self._metadata, foreign=self._settings.foreign_tables)
        return (*findings, *drift)

    def _refuse_pending(self, connection: Connection, history: History) -> None:
        if pending := history.pending(read_current(connection)):
            raise MigrationsPendingError(pending)

    def lint(self, *targets: str | Path, since: str | None = None) -> LintReport:
        """Return what the migrations would do to a busy PostgreSQL that they should not; none is asked.

        upgrade() of every file runs against nothing, to see its SQL; downgrade() is not looked at.

        Args:
            *targets: Which to report on: ids or their beginnings, or paths of the files; all without any.
            since: Report on those that a database at this revision lacks.

        Raises:
            UnknownTargetError: A target is no migration of this directory, or more than one.
            MigrationError: A file cannot be read, the files do not fit together, or squawk does not work.
        """
        from backstay.db.migrations.lint import lint  # noqa: PLC0415 - Alembic is paid for when it is used

        history = self._history()
        wanted = {history.locate(target).id for target in targets} or set(history.ids)
        if since is not None:
            wanted &= {revision.id for revision in history.pending((history.locate(since).id,))}
        with self._op_for_us():
            return lint(history.revisions, wanted)

    def _history(self) -> History:
        return read_history(self._versions)

    def _move(
        self, direction: Literal["upgrade", "downgrade"], revision: str, connection: Connection
    ) -> tuple[Revision, ...]:
        from backstay.db.migrations import _environment  # noqa: PLC0415 - Alembic is paid for when it is used

        history = self._history()
        if len(history.heads) > 1 and (revision == "head" or revision.startswith("+")):
            raise MultipleHeadsError(history.heads)
        history.refuse_unknown_branch(revision)
        with _left_as_found(connection):
            history.find(read_current(connection))
        move = _environment.upgrade if direction == "upgrade" else _environment.downgrade
        settings = self._settings
        with migrating_alone(connection, wait=settings.lock_wait), limited(connection, settings):
            ids = move(connection, self._versions, history, target=revision, settings=settings)
        revisions = {one.id: one for one in history.revisions}
        return tuple(revisions[one] for one in ids)

    @contextmanager
    def _op_for_us(self) -> Iterator[None]:
        wait = self._settings.lock_wait
        if not _OP.acquire(timeout=wait.total_seconds()):
            raise MigrationsLockedError(wait)
        try:
            yield
        finally:
            _OP.release()


def _apart(tables: Iterable[Table]) -> tuple[MetaData, ...]:
    """Return these tables, without those that they are declared with."""
    apart = MetaData(naming_convention=NAMING_CONVENTION)
    for table in tables:
        table.to_metadata(apart).info.clear()  # what is in it is not for migrations
    return (apart,) if apart.tables else ()


def _refuse_empty(message: str) -> None:
    if not any(character.isalnum() for character in message):
        raise MigrationError("A migration needs a message, for its name.", hint='Say it with -m "add users".')


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

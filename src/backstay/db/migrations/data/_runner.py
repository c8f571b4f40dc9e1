"""The door to data migrations: see how far they are, run them, try them, write the next file."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Literal

from sqlalchemy import MetaData, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db.database import Database
from backstay.db.migrations._errors import MultipleHeadsError, UnknownRevisionError
from backstay.db.migrations._history import read_current, read_history
from backstay.db.migrations.data._batches import KeyedTable, inspect_table
from backstay.db.migrations.data._errors import DataMigrationTooEarlyError
from backstay.db.migrations.data._files import DataMigration, find_file, read_files, write_file
from backstay.db.migrations.data._marker import Marker, create_table, read_markers
from backstay.db.migrations.data._steps import (
    Work,
    explain_failure,
    explaining_locks,
    is_worth_repeating,
    prepare,
    take_step,
)
from backstay.db.migrations.data._watching import Total, count_rest, running_alone
from backstay.errors import ConfigurationError

__all__ = ["DataMigrations", "DataProgress", "Rehearsal", "State"]

_logger = logging.getLogger("backstay.db.migrations.data")

State = Literal["pending", "running", "done"]
OnProgress = Callable[["DataProgress"], object]

_LONGEST_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DataProgress:
    """How far a data migration is.

    Attributes:
        state: `running` from the first batch to the last, also while no process runs it.
        rows_done: Rows of the batches that are committed.
        rows_total: All rows, done or not; a guess where counting takes longer than two seconds.
        rows_changed: How many of the rows done were changed, by what the function said.
        batches_done: Batches that are committed.
    """

    name: str
    state: State
    rows_done: int
    rows_total: int
    rows_changed: int
    batches_done: int

    @property
    def share(self) -> float:
        """What is done, from 0 to 1."""
        if self.state == "done":
            return 1.0
        return self.rows_done / self.rows_total if self.rows_total else 0.0


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a data migration would do; nothing of it was kept.

    Attributes:
        rows: Rows that are still to be walked through.
        is_exact: Whether they were counted; else it is the planner's guess.
        batches: In how many batches.
        batch_rows: Rows of the next batch, which was run and rolled back.
        batch_changed: How many of them it changed.
    """

    name: str
    rows: int
    is_exact: bool
    batches: int
    batch_rows: int
    batch_changed: int


class DataMigrations:
    """The data migrations of a service, in `<directory>/data`: rows changed in batches while it serves.

    Each batch is one transaction of the database, which holds the function's work and a marker that says how
    far it went. So it goes on where it was after any end, `kill -9` too, and changes no batch twice; what
    takes part in the database's commits takes part in these.

    Args:
        directory: The folder that holds `versions` and `data`.
        batch_size: Rows of a batch. It keeps their locks until it commits.
        rows_per_second: How fast to go at the most. When None it rests after each batch for as long as the
            batch took, and leaves the database to the service half of the time.
        attempts: How often in all a batch is tried when it meets locks, a deadlock or a lost connection.
        lock_timeout: PostgreSQL: how long a batch waits for a row that somebody else has locked.

    Raises:
        ConfigurationError: A number is not above zero.
    """

    def __init__(
        self,
        directory: Path,
        *,
        batch_size: int = 200,
        rows_per_second: int | None = None,
        attempts: int = 10,
        lock_timeout: timedelta = timedelta(milliseconds=500),
    ) -> None:
        if min(batch_size, attempts, 1 if rows_per_second is None else rows_per_second) < 1:
            raise ConfigurationError("The size, the rate and the attempts of a data migration begin at 1.")
        self._directory = Path(directory).absolute() / "data"
        self._versions = Path(directory).absolute() / "versions"
        self._batch_size = batch_size
        self._rows_per_second = rows_per_second
        self._attempts = attempts
        self._lock_milliseconds = int(lock_timeout.total_seconds() * 1000)

    def files(self) -> tuple[DataMigration, ...]:
        """Return the data migrations by their dates; no file is run.

        Raises:
            MigrationError: A file cannot be read, or two have the same name.
        """
        return read_files(self._directory)

    async def progress(self, database: Database) -> tuple[DataProgress, ...]:
        """Return how far each data migration is, by their dates; it takes up to two seconds for each.

        Raises:
            MigrationError: A file cannot be read, or two have the same name.
        """
        migrations = self.files()
        async with database.reading() as session:
            markers = await session.run_sync(lambda sync: read_markers(sync.connection()))
            return tuple(
                [
                    await self._describe(session, migration, markers.get(migration.name, Marker()))
                    for migration in migrations
                ]
            )

    async def _describe(
        self, session: AsyncSession, migration: DataMigration, marker: Marker
    ) -> DataProgress:
        rest = 0
        if not marker.is_done:
            rows = await session.run_sync(lambda sync: _find_table(sync.connection(), migration))
            rest = 0 if rows is None else (await count_rest(session, rows, marker.last_key))[0]
        return _as_progress(migration, marker, total=marker.rows_done + rest)

    async def run(
        self, database: Database, name: str, *, on_progress: OnProgress | None = None
    ) -> DataProgress:
        """Run a data migration to its end, from where it was, and return how far it is.

        Cancelled, it rolls the running batch back and keeps those before it.

        Args:
            database: Where. Of its connections it takes one for the batches and one for reading.
            name: The file's name without its date.
            on_progress: Called at the start and after each batch, when that is committed.

        Raises:
            MigrationError: It failed and the batch was rolled back, another process runs it, the schema is
                not there yet; see the error's class.
        """
        migration = find_file(self._directory, name)
        await self._require_schema(database, migration)
        async with running_alone(database, name) as session:
            work, marker = await self._begin(database, migration)
            total = Total(session, work.rows)
            while True:
                counted = (
                    marker.rows_done
                    if marker.is_done
                    else await total.find(done=marker.rows_done, after=marker.last_key)
                )
                progress = _as_progress(migration, marker, total=counted)
                if on_progress is not None:
                    on_progress(progress)
                if marker.is_done:
                    return progress
                marker = await self._advance(database, work, marker)

    async def _require_schema(self, database: Database, migration: DataMigration) -> None:
        if migration.after is None:
            return
        history = read_history(self._versions)
        async with database.reading() as session:
            current = await session.run_sync(lambda sync: read_current(sync.connection()))
        if migration.after not in history.ids:
            raise UnknownRevisionError(migration.after, history.ids)
        ran = set(history.ids).difference(revision.id for revision in history.pending(current))
        if migration.after not in ran:
            raise DataMigrationTooEarlyError(migration.name, migration.after)

    async def _begin(self, database: Database, migration: DataMigration) -> tuple[Work, Marker]:
        async with database.transaction() as session:
            await session.run_sync(lambda sync: create_table(sync.connection()))
            work = await session.run_sync(lambda sync: prepare(sync.connection(), migration))
            markers = await session.run_sync(lambda sync: read_markers(sync.connection()))
        return work, markers.get(migration.name, Marker())

    async def _advance(self, database: Database, work: Work, before: Marker) -> Marker:
        began = monotonic()
        after = await self._take_step(database, work)
        if not after.is_done:
            await asyncio.sleep(self._rest_seconds(after.rows_done - before.rows_done, monotonic() - began))
        return after

    def _rest_seconds(self, rows: int, seconds: float) -> float:
        if self._rows_per_second is None:
            return seconds
        return max(0.0, rows / self._rows_per_second - seconds)

    async def _take_step(self, database: Database, work: Work) -> Marker:
        for attempt in range(1, self._attempts):
            try:
                return await self._try_step(database, work)
            except Exception as error:
                if not is_worth_repeating(error):
                    raise
                wait = _wait_seconds(attempt)
                _logger.warning(
                    "A batch of %s met a lock or lost its connection; trying again in %.1f s (%d of %d)",
                    work.migration.name,
                    wait,
                    attempt,
                    self._attempts,
                )
                await asyncio.sleep(wait)
        with explaining_locks(work.migration.name):
            return await self._try_step(database, work)

    async def _try_step(self, database: Database, work: Work) -> Marker:
        try:
            async with database.transaction() as session:
                return await self._step_in(session, database, work)
        except IntegrityError as error:  # of COMMIT: constraints that are checked there
            raise explain_failure(error, work) from error

    async def _step_in(self, session: AsyncSession, database: Database, work: Work) -> Marker:
        if database.is_postgresql:
            await session.execute(text(f"SET LOCAL lock_timeout = {self._lock_milliseconds}"))
        return await session.run_sync(
            lambda sync: take_step(sync.connection(), work, batch_size=self._batch_size)
        )

    async def rehearse(self, database: Database, name: str) -> Rehearsal:
        """Count what is to do, and run the next batch to see that it works; it is rolled back.

        Raises:
            MigrationError: As for `run`.
        """
        migration = find_file(self._directory, name)
        await self._require_schema(database, migration)
        async with database.reading() as counting:
            session = database.session()
            try:
                return await self._rehearse(counting, session, database, migration)
            finally:
                await session.close()

    async def _rehearse(
        self, counting: AsyncSession, session: AsyncSession, database: Database, migration: DataMigration
    ) -> Rehearsal:
        markers = await counting.run_sync(lambda sync: read_markers(sync.connection()))
        before = markers.get(migration.name, Marker())
        work = await counting.run_sync(lambda sync: prepare(sync.connection(), migration))
        rest, is_exact = (
            (0, True) if before.is_done else await count_rest(counting, work.rows, before.last_key)
        )
        await session.run_sync(lambda sync: create_table(sync.connection()))
        with explaining_locks(migration.name):
            after = await self._step_in(session, database, work)
        await session.rollback()
        return Rehearsal(
            name=migration.name,
            rows=rest,
            is_exact=is_exact,
            batches=-(-rest // self._batch_size),
            batch_rows=after.rows_done - before.rows_done,
            batch_changed=after.rows_changed - before.rows_changed,
        )

    def write(self, message: str, *, table: str, metadata: MetaData) -> Path:
        """Write a data migration that builds on the newest schema migration, and return its path.

        Args:
            message: What it does, for its name and docstring.
            table: Whose rows it changes; a model's.
            metadata: Where the models' tables are: `Model.metadata`.

        Raises:
            MigrationError: The message has no letter, the name is taken, no model has the table, or the
                schema migrations have two heads.
        """
        heads = read_history(self._versions).heads
        if len(heads) > 1:
            raise MultipleHeadsError(heads)
        after = heads[0].id if heads else None
        return write_file(self._directory, message, table=table, after=after, metadata=metadata)


def _find_table(connection: Connection, migration: DataMigration) -> KeyedTable | None:
    try:
        return inspect_table(connection, migration.table)
    except LookupError:
        return None  # not made yet, or gone already


def _as_progress(migration: DataMigration, marker: Marker, *, total: int) -> DataProgress:
    state: State = "done" if marker.is_done else "pending" if marker.started_at is None else "running"
    return DataProgress(
        name=migration.name,
        state=state,
        rows_done=marker.rows_done,
        rows_total=total,
        rows_changed=marker.rows_changed,
        batches_done=marker.batches_done,
    )


def _wait_seconds(attempt: int) -> float:
    longest = min(_LONGEST_WAIT_SECONDS, 0.1 * 2**attempt)
    return random.uniform(longest / 2, longest)  # noqa: S311  so that two of them do not meet again

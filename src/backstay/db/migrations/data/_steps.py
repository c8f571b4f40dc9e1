"""One batch: the user's function and the marker, in the transaction of the caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from backstay.db._errors import as_app_error, sqlstate_of
from backstay.db.migrations._errors import MigrationError
from backstay.db.migrations.data._batches import Batch, KeyedTable, describe_key, inspect_table
from backstay.db.migrations.data._errors import (
    BrokenDataMigrationError,
    DataMigrationBlockedError,
    DataMigrationFailedError,
    DataMigrationUnfinishedError,
)
from backstay.db.migrations.data._files import DataMigration, Migrate, find_file, find_line, load_migrate
from backstay.db.migrations.data._marker import Marker, create_table, lock_marker, write_marker
from backstay.errors import UnavailableError

__all__ = [
    "Work",
    "explain_failure",
    "explaining_locks",
    "is_worth_repeating",
    "prepare",
    "require_done",
    "take_step",
]

_BLOCKED = {"40001", "40P01", "55P03"}  # serialization_failure, deadlock_detected, lock_not_available
_SMALL = 1000
"""Rows that a schema migration changes on the way, in its own transaction."""


@dataclass(frozen=True, slots=True)
class Work:
    """A data migration, ready to run: its function and its table."""

    migration: DataMigration
    migrate: Migrate
    rows: KeyedTable


def prepare(connection: Connection, migration: DataMigration) -> Work:
    """Load a data migration and look at its table.

    Raises:
        BrokenDataMigrationError: The file raises or has no `migrate`, the table is missing or has no key.
    """
    migrate = load_migrate(migration.path)
    try:
        rows = inspect_table(connection, migration.table)
    except LookupError as error:
        raise BrokenDataMigrationError(migration.path, 1, str(error)) from error
    return Work(migration, migrate, rows)


def take_step(connection: Connection, work: Work, *, batch_size: int) -> Marker:
    """Change the next batch and move the marker behind it, both or neither: the caller commits.

    The marker is read under a lock and says where to go on, so each batch is changed once, however many
    processes run and however they end.

    Raises:
        MigrationError: The function raised, or ended the transaction.
    """
    marker = lock_marker(connection, work.migration)
    if marker.is_done:
        return marker
    number = marker.batches_done + 1
    batch = work.rows.find_batch(connection, after=marker.last_key, size=batch_size, number=number)
    if batch is not None:
        marker = marker.behind(batch, changed=_change(connection, work, batch))
    if batch is None or batch.size < batch_size:
        marker = marker.at_end()
    try:
        write_marker(connection, work.migration.name, marker)
    except LookupError as error:
        raise BrokenDataMigrationError(work.migration.path, 1, str(error)) from error
    return marker


def _change(connection: Connection, work: Work, batch: Batch) -> int:
    transaction = connection.get_transaction()
    try:
        changed = work.migrate(connection, batch)
    except MigrationError:
        raise
    except Exception as error:  # the user's code
        if is_worth_repeating(error):
            raise
        raise explain_failure(error, work, batch) from error
    if transaction is None or connection.get_transaction() is not transaction or not transaction.is_active:
        raise _refuse(work, "migrate ended the transaction, which belongs to the batch and its marker.")
    if not isinstance(changed, int):
        raise _refuse(work, f"migrate returned {changed!r}, not how many rows it changed.")
    return max(0, changed)


def _refuse(work: Work, reason: str) -> BrokenDataMigrationError:
    return BrokenDataMigrationError(work.migration.path, _line_of(work.migrate), reason)


def _line_of(migrate: Migrate) -> int:
    code = getattr(migrate, "__code__", None)
    return int(getattr(code, "co_firstlineno", 1))


def is_worth_repeating(error: BaseException) -> bool:
    """Return whether a batch may succeed when it runs again: locks, deadlocks, a server that went away."""
    return isinstance(as_app_error(error), UnavailableError)


@contextmanager
def explaining_locks(name: str) -> Iterator[None]:
    """Say of a lock that was not got, and will not be tried again, whose batch it stopped.

    Raises:
        DataMigrationBlockedError: PostgreSQL gave up a statement of the block for other transactions.
    """
    try:
        yield
    except DBAPIError as error:
        if sqlstate_of(error) in _BLOCKED:
            raise DataMigrationBlockedError(name) from error
        raise


def explain_failure(error: Exception, work: Work, batch: Batch | None = None) -> DataMigrationFailedError:
    """Return what a batch raised, with its place; without a batch the COMMIT raised it."""
    path: Path = work.migration.path
    rows = "that was to be committed"
    if batch is not None:
        rows = f"from key {describe_key(batch.first)} to {describe_key(batch.last)}"
    return DataMigrationFailedError(
        path,
        find_line(error, path) or _line_of(work.migrate),
        name=work.migration.name,
        rows=rows,
        reason=_reason(error),
    )


def _reason(error: Exception) -> str:
    if not isinstance(error, DBAPIError):
        return f"{type(error).__name__}: {error}"
    # What the server says of bad values quotes them, and what follows its first line always does.
    if (sqlstate_of(error) or "").startswith("22"):
        return f"{type(error.driver_exception).__name__}, a value does not fit."
    return str(error.driver_exception).partition("\n")[0]


def require_done(connection: Connection, directory: Path, *, name: str, revision: str) -> None:
    """Refuse a schema migration whose data migration is not done, inside its transaction and before its work.

    A table of less than a thousand rows is changed right here: databases that are new, or a test's, need no
    command of their own.

    Raises:
        DataMigrationUnfinishedError: There are more rows to change.
        MigrationError: As when the data migration itself runs.
    """
    migration = find_file(directory, name)
    create_table(connection)
    marker = take_step(connection, prepare(connection, migration), batch_size=_SMALL)
    if not marker.is_done:
        raise DataMigrationUnfinishedError(revision, name)

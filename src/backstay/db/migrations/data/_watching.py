"""Beside the batches: a connection that counts what is left and keeps a second process away."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from backstay import json
from backstay.db._errors import sqlstate_of
from backstay.db.database import Database
from backstay.db.migrations.data._batches import Key, KeyedTable
from backstay.db.migrations.data._errors import DataMigrationRunningError

__all__ = ["Total", "count_rest", "running_alone"]

_COUNT_MILLISECONDS = 2000
_COUNT_AGAIN_SECONDS = 30.0
_TOO_FEW_SECONDS = 1.0  # what was counted is done, and rows are left: more have come, or it was a wrong guess
_QUERY_CANCELED = "57014"


@asynccontextmanager
async def running_alone(database: Database, name: str) -> AsyncIterator[AsyncSession]:
    """Keep other processes from running the same data migration, and open what counts meanwhile.

    A courtesy: that no batch runs twice is the marker's doing. What is held here ends with the process.

    Raises:
        DataMigrationRunningError: Another process runs it.
    """
    async with database.reading() as session:
        if not database.is_postgresql:
            with _locked_file(Path(f"{database.url.database}-{name}.lock"), name):
                yield session
            return
        if not await session.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _lock_key(name)}):
            raise DataMigrationRunningError(name)
        try:
            yield session
        finally:
            await session.invalidate()  # the lock goes with the connection


def _lock_key(name: str) -> int:
    digest = hashlib.sha256(f"backstay data migration {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextmanager
def _locked_file(path: Path, name: str) -> Iterator[None]:
    # Beside the database and never on its own file: closing that one would drop SQLite's locks on it.
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DataMigrationRunningError(name) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


async def count_rest(
    session: AsyncSession, rows: KeyedTable, after: Key | None, *, exactly: bool = True
) -> tuple[int, bool]:
    """Return how many rows come after a key, and whether that was counted; else it is the planner's guess.

    Args:
        session: One that only reads.
        rows: The table.
        after: The key; None for the whole table.
        exactly: Whether to try to count.
    """
    return await session.run_sync(
        lambda sync: _count_or_guess(sync.connection(), rows, after, exactly=exactly)
    )


def _count_or_guess(
    connection: Connection, rows: KeyedTable, after: Key | None, *, exactly: bool
) -> tuple[int, bool]:
    counted = _count(connection, rows, after) if exactly else None
    return (_guess(connection, rows, after), False) if counted is None else (counted, True)


def _count(connection: Connection, rows: KeyedTable, after: Key | None) -> int | None:
    """Count; None when it takes too long. A SQLite file is counted, however long it takes."""
    counted = sa.select(sa.func.count()).select_from(rows.table).where(rows.rest(after))
    if connection.dialect.name != "postgresql":
        return connection.scalar(counted) or 0
    connection.exec_driver_sql(f"SET statement_timeout = {_COUNT_MILLISECONDS}")
    try:
        return connection.scalar(counted) or 0
    except DBAPIError as error:
        if sqlstate_of(error) != _QUERY_CANCELED:
            raise
        return None
    finally:
        connection.exec_driver_sql("SET statement_timeout = DEFAULT")


def _guess(connection: Connection, rows: KeyedTable, after: Key | None) -> int:
    """Return what PostgreSQL's planner expects: the table's present size, and the share behind the key."""
    wanted = sa.select(*rows.columns).where(rows.rest(after))
    written = wanted.compile(connection, compile_kwargs={"literal_binds": True})
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {written}").scalar_one()
    described: Any = json.loads(plan) if isinstance(plan, str) else plan
    return int(described[0]["Plan"]["Plan Rows"])


class Total:
    """How many rows there are in all, counted now and then; if that takes too long the planner is asked."""

    def __init__(self, session: AsyncSession, rows: KeyedTable) -> None:
        self._session = session
        self._rows = rows
        self._total = 0
        self._counted_at: float | None = None
        self._is_exact = True

    async def find(self, *, done: int, after: Key | None) -> int:
        """Return the total, given how many rows are done and the key of the last of them."""
        patience = _COUNT_AGAIN_SECONDS if done < self._total else _TOO_FEW_SECONDS
        if self._counted_at is None or monotonic() - self._counted_at >= patience:
            rest, self._is_exact = await count_rest(self._session, self._rows, after, exactly=self._is_exact)
            self._total, self._counted_at = done + rest, monotonic()
        self._total = max(self._total, done)
        return self._total

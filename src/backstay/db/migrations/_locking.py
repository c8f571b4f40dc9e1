"""One process migrates at a time, and SQLite's foreign keys rest while tables are rebuilt."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from backstay.db.migrations._errors import ForeignKeysBrokenError, MigrationsLockedError

__all__ = ["begin_alone", "migrating_alone", "refuse_broken_keys"]

_logger = logging.getLogger("backstay.db.migrations")

# Any number that every process agrees on; advisory locks are per database.
_LOCK = int.from_bytes(b"backstay", "big")
_KEYS_WERE_ON = "backstay_foreign_keys_were_on"


@contextmanager
def migrating_alone(connection: Connection, *, wait: timedelta) -> Iterator[None]:
    """Keep other processes from migrating the same database, on a connection that is in no transaction.

    Raises:
        MigrationsLockedError: Another process did not end in time.
    """
    guard = _sqlite_at_rest if connection.dialect.name == "sqlite" else _advisory_lock
    with guard(connection, wait):
        yield


@contextmanager
def _advisory_lock(connection: Connection, wait: timedelta) -> Iterator[None]:
    _take_lock(connection, wait)
    try:
        yield
    finally:
        _release_lock(connection)


def _take_lock(connection: Connection, wait: timedelta) -> None:
    give_up_at = time.monotonic() + wait.total_seconds()
    is_told = False
    # Asking again and again, each time in a transaction of its own: one that waits inside of the database
    # holds a snapshot, for which the other's CREATE INDEX CONCURRENTLY would wait in turn.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}):
        connection.commit()
        if time.monotonic() >= give_up_at:
            raise MigrationsLockedError(wait)
        if not is_told:
            _logger.info("Waiting for another process that is migrating this database")
            is_told = True
        connection.execute(text("SELECT pg_sleep(0.1)"))
        connection.commit()
    connection.commit()


def _release_lock(connection: Connection) -> None:
    if connection.invalidated:
        return  # the lock belongs to the server's session and went with it
    try:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
        connection.commit()
    except BaseException:
        connection.invalidate()
        raise


@contextmanager
def _sqlite_at_rest(connection: Connection, wait: timedelta) -> Iterator[None]:
    before = {pragma: _read_pragma(connection, pragma) for pragma in ("busy_timeout", "foreign_keys")}
    connection.info[_KEYS_WERE_ON] = bool(before["foreign_keys"])
    try:
        _set_pragma(connection, "busy_timeout", int(wait.total_seconds() * 1000))
        # Dropping the old copy of a rebuilt table would delete the rows that refer to it.
        _set_pragma(connection, "foreign_keys", 0)
        yield
    finally:
        _restore(connection, before)


def _restore(connection: Connection, pragmas: dict[str, int]) -> None:
    try:
        connection.rollback()
        for pragma, value in pragmas.items():
            _set_pragma(connection, pragma, value)
    except BaseException:
        connection.invalidate()
        raise


def _read_pragma(connection: Connection, pragma: str) -> int:
    return int(_execute_outside(connection, f"PRAGMA {pragma}")[0])


def _set_pragma(connection: Connection, pragma: str, value: int) -> None:
    _execute_outside(connection, f"PRAGMA {pragma} = {value}")


def _execute_outside(connection: Connection, statement: str) -> Any:
    # SQLAlchemy would begin a transaction first, inside of which SQLite ignores PRAGMA foreign_keys.
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchone()
    finally:
        cursor.close()


def begin_alone(connection: Connection, *, wait: timedelta) -> None:
    """Begin a transaction; on SQLite one that already is the only writer, however the engine begins its own.

    Raises:
        MigrationsLockedError: Another process did not end in time.
    """
    if connection.dialect.name != "sqlite":
        connection.begin()
        return
    before = connection.get_execution_options().get("sqlite_begin")
    connection.execution_options(sqlite_begin="IMMEDIATE")
    try:
        connection.begin()
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    except OperationalError as error:
        raise MigrationsLockedError(wait) from error
    finally:
        if before is not None:
            connection.execution_options(sqlite_begin=before)


def refuse_broken_keys(connection: Connection) -> None:
    """Check what SQLite did not while its foreign keys rested; elsewhere they never rest.

    Raises:
        ForeignKeysBrokenError: A row points nowhere.
    """
    if connection.info.get(_KEYS_WERE_ON):
        tables = {row[0] for row in connection.exec_driver_sql("PRAGMA foreign_key_check")}
        if tables:
            raise ForeignKeysBrokenError(sorted(tables))

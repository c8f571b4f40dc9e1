"""Engines: from one URL of the settings to drivers, pools and the pragmas that make SQLite behave."""

from __future__ import annotations

import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy import create_engine as create_sync_engine
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from backstay import json
from backstay.db._address import refuse_unknown_options
from backstay.db._driver import connect_postgresql, ping
from backstay.db._pool import DeadlinePool, WatchedPool
from backstay.db._quiet import ask_quietly
from backstay.deadline import seconds_left
from backstay.errors import ConfigurationError
from backstay.settings import DatabaseSettings

__all__ = ["async_url", "create_engines", "create_sync", "resolve_url", "temporary_file"]

_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_BUSY = "backstay.busy"
_SYNC_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}


def resolve_url(settings: DatabaseSettings) -> URL:
    """Return the database's address without a driver, checked.

    Raises:
        ConfigurationError: It is not an address of SQLite or PostgreSQL.
    """
    try:
        url = make_url(settings.url.get_secret_value())
    except ArgumentError as error:
        raise ConfigurationError(
            "The setting database.url is not a database address.", hint=_EXAMPLES
        ) from error
    backend = {"postgres": "postgresql"}.get(url.get_backend_name(), url.get_backend_name())
    if backend not in _ASYNC_DRIVERS:
        raise ConfigurationError(
            f"The setting database.url names {backend!r}, which is not supported.", hint=_EXAMPLES
        )
    if backend == "postgresql":
        refuse_unknown_options(url)
    return url.set(drivername=backend)


_EXAMPLES = "Use sqlite:///service.db or postgresql://user:password@host:5432/name."


def temporary_file() -> Path:
    """Return a fresh path for a database "in memory".

    A SQLite database in memory belongs to one connection, and sharing it means sharing one transaction: a
    private file that goes with the process is the only form that behaves like a database.
    """
    return Path(tempfile.mkdtemp(prefix="backstay-")) / "memory.db"


def async_url(url: URL) -> URL:
    """Return the address with the asynchronous driver."""
    return url.set(drivername=_ASYNC_DRIVERS[url.get_backend_name()])


def create_engines(url: URL, settings: DatabaseSettings) -> tuple[AsyncEngine, AsyncEngine]:
    """Return the engine for transactions and the engine for reading.

    Reading has a pool of its own: its connections are autocommit, so they hold no snapshot, refuse writes
    in the database itself, need no reset when they return, and a reader never waits for a writer's
    connection or the other way round.
    """
    writing = create_async_engine(
        async_url(url),
        **_pool(settings),
        **_connect_options(url, settings),
        poolclass=WatchedPool,
        pool_logging_name="writing",
    )
    reading = create_async_engine(
        async_url(url),
        **_pool(settings),
        **_connect_options(url, settings, read_only=True),
        poolclass=WatchedPool,
        pool_logging_name="reading",
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
    )
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(writing.sync_engine, settings)
        _prepare_sqlite(reading.sync_engine, settings, read_only=True)
    else:
        for engine in (writing, reading):
            engine.dialect.do_ping = ping  # type: ignore[assignment,method-assign]  # the seam
    return writing, reading


def create_sync(url: URL, settings: DatabaseSettings) -> Engine:
    """Return a blocking engine for scripts and notebooks.

    Raises:
        ConfigurationError: PostgreSQL is asked for and its blocking driver is not installed.
    """
    try:
        engine = create_sync_engine(
            url.set(drivername=_SYNC_DRIVERS[url.get_backend_name()]),
            **_pool(settings),
            poolclass=DeadlinePool,
        )
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Blocking use of PostgreSQL needs psycopg, which is not installed.",
            hint="pip install 'backstay[sync]'",
        ) from error
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(engine, settings)
    return engine


def _pool(settings: DatabaseSettings) -> dict[str, Any]:
    return {
        "pool_size": settings.pool_size,
        "max_overflow": settings.pool_overflow,
        "pool_timeout": settings.pool_timeout.total_seconds(),
        "pool_recycle": int(settings.pool_recycle.total_seconds()),
        "echo": settings.echo,
        "hide_parameters": True,
        "json_serializer": lambda value: json.dumps(value).decode(),
        "json_deserializer": json.loads,
    }


def _connect_options(url: URL, settings: DatabaseSettings, *, read_only: bool = False) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {}
    server = {
        "application_name": "backstay",
        "timezone": "UTC",
        "lock_timeout": str(int(settings.lock_timeout.total_seconds() * 1000)),
        # About one cancellation in a thousand reaches the server before its query does, and is lost. A server
        # that looks whether its caller is still there stops such a query too.
        "client_connection_check_interval": "500",
    }
    if read_only:
        server["default_transaction_read_only"] = "on"
    arguments = {
        "server_settings": server,
        "async_creator_fn": connect_postgresql,
    }
    return {"connect_args": arguments, "pool_pre_ping": True}


def _prepare_sqlite(engine: Engine, settings: DatabaseSettings, *, read_only: bool = False) -> None:
    busy = int(settings.busy_timeout.total_seconds() * 1000)
    pragmas = [f"busy_timeout = {busy}", "journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL"]
    if read_only:
        pragmas.append("query_only = ON")

    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        # The driver begins transactions late and not at all for reads and DDL: switched off, we say BEGIN
        # ourselves.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if not read_only:
        event.listen(engine, "begin", partial(_begin, busy_ms=busy))


def _begin(connection: Connection, *, busy_ms: int) -> None:
    _limit_wait(connection, busy_ms)
    # IMMEDIATE takes the write lock first. A deferred transaction that reads and then writes fails at once
    # when another one wrote in between, whatever the busy timeout, or loses that update.
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'IMMEDIATE')}")


def _limit_wait(connection: Connection, busy_ms: int) -> None:
    """Wait for the lock no longer than the deadline allows: meanwhile SQLite hears of no cancellation."""
    left = seconds_left()
    wanted = busy_ms if left is None else min(busy_ms, math.ceil(left * 1000))
    if connection.info.get(_BUSY, busy_ms) == wanted:
        return
    connection.info[_BUSY] = wanted
    ask_quietly(connection, f"PRAGMA busy_timeout = {wanted}")

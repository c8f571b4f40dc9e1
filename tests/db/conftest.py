"""Empty databases of both kinds, for the tests of column types, models and migrations.

These tests stand below `Database`, so they bring an engine of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from backstay.db import Database
from backstay.testing._databases import DatabaseMaker, ServerMissingError
from backstay.testing.databases import _give_up


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of database; a test that takes any fixture below runs once on each."""
    kind: str = request.param
    return kind


@pytest.fixture
def empty_url(backend: str, tmp_path: Path, _database_maker: DatabaseMaker) -> Iterator[str]:
    """The address of an empty database that is gone afterwards."""
    if backend == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}"
        return
    with _created_on_the_server(_database_maker) as url:
        yield url


@pytest.fixture(scope="module")
def shared_postgresql_url(_database_maker: DatabaseMaker) -> Iterator[str]:
    """The address of a PostgreSQL database that the tests of a module share, one after the other."""
    with _created_on_the_server(_database_maker) as url:
        yield url


@contextmanager
def _created_on_the_server(maker: DatabaseMaker) -> Iterator[str]:
    try:
        url = maker.create("postgresql", _leave_empty)
    except ServerMissingError as error:
        _give_up(error)
    yield make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    maker.remove("postgresql", url)


async def _leave_empty(database: Database) -> None:
    pass


@pytest.fixture
async def open_engine() -> AsyncIterator[Callable[[str], AsyncEngine]]:
    """Opens an engine; on SQLite with our own BEGIN, so that DDL rolls back, and foreign keys on."""
    engines: list[AsyncEngine] = []

    def open_one(url: str) -> AsyncEngine:
        engine = create_async_engine(url)
        engines.append(engine)
        if url.startswith("sqlite"):
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine

    yield open_one
    for engine in engines:
        await engine.dispose()


@pytest.fixture
def empty_engine(empty_url: str, open_engine: Callable[[str], AsyncEngine]) -> AsyncEngine:
    """An engine on an empty database that is gone afterwards."""
    return open_engine(empty_url)


def _prepare_sqlite(connection: Any, entry: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}")

"""Empty databases of both kinds, for the tests of column types, models and migrations.

These tests stand below `Database` and the plugin's own fixtures, so they bring an engine of their own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

SERVER = os.environ.get("BACKSTAY_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of database; a test that takes any fixture below runs once on each."""
    kind: str = request.param
    return kind


@pytest.fixture
async def empty_url(backend: str, tmp_path: Path) -> AsyncIterator[str]:
    """The address of an empty database that is gone afterwards."""
    if backend == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}"
        return
    async with _created_on_the_server() as url:
        yield url


@pytest.fixture(scope="module")
async def shared_postgresql_url() -> AsyncIterator[str]:
    """The address of a PostgreSQL database that the tests of a module share, one after the other."""
    async with _created_on_the_server() as url:
        yield url


@asynccontextmanager
async def _created_on_the_server() -> AsyncIterator[str]:
    server = await _connect_or_skip()
    name = f"backstay_test_{uuid4().hex}"
    try:
        await server.execute(f"CREATE DATABASE {name}")
        address = SERVER.rsplit("/", 1)[0].replace("postgresql://", "postgresql+asyncpg://")
        yield f"{address}/{name}"
    finally:
        await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await server.close()


async def _connect_or_skip() -> asyncpg.Connection[Any]:
    try:
        return await asyncpg.connect(SERVER, timeout=5)
    except (OSError, TimeoutError) as error:
        if os.environ.get("BACKSTAY_REQUIRE_SERVERS"):
            raise
        pytest.skip(f"no PostgreSQL answers: {error}")


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

"""A pool says how full it is, and who had to wait; a failed statement is told like one that worked."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.exc import DBAPIError, TimeoutError  # noqa: A004  SQLAlchemy's name

from backstay.db import Database, PoolUse
from backstay.events import ConnectionAwaited, QueryExecuted, QueryFailed
from backstay.settings import Settings

pytestmark = pytest.mark.databases("sqlite", "postgresql")

_NO_TABLES = MetaData()


@pytest.fixture
def metadata() -> MetaData:
    return _NO_TABLES


@pytest.fixture
def settings(settings: Settings) -> Settings:
    narrow = {"pool_size": 1, "pool_overflow": 0, "pool_timeout": settings.database.busy_timeout / 20}
    return settings.model_copy(update={"database": settings.database.model_copy(update=narrow)})


async def test_a_pool_says_what_is_in_use(database: Database) -> None:
    assert database.pools() == (PoolUse("writing", 0, 0, 1), PoolUse("reading", 0, 0, 1))
    async with database.reading() as session:
        await session.execute(text("SELECT 1"))
        assert database.pools() == (PoolUse("writing", 0, 0, 1), PoolUse("reading", 1, 0, 1))
    assert database.pools() == (PoolUse("writing", 0, 0, 1), PoolUse("reading", 0, 1, 1))


async def test_nobody_waits_while_a_connection_is_free(database: Database, events: Any) -> None:
    for _ in range(3):
        async with database.reading() as session:
            await session.execute(text("SELECT 1"))
    assert events.of(ConnectionAwaited) == []


async def test_a_wait_that_ends_well_is_told(database: Database, events: Any) -> None:
    async def read() -> None:
        async with database.reading() as session:
            await session.execute(text("SELECT 1"))

    async with database.reading() as session:
        await session.execute(text("SELECT 1"))
        waiting = asyncio.create_task(read())
        await asyncio.sleep(0.02)
    await waiting

    (awaited,) = events.of(ConnectionAwaited)
    assert awaited.pool == "reading"
    assert 0 < awaited.seconds < 0.25


async def test_a_wait_in_vain_is_told_too(database: Database, events: Any) -> None:
    async with database.transaction() as session, database.transaction() as other:
        await session.execute(text("SELECT 1"))
        with pytest.raises(TimeoutError):
            await other.execute(text("SELECT 1"))

    (awaited,) = events.of(ConnectionAwaited)
    assert awaited.pool == "writing"
    assert awaited.seconds >= 0.24  # a timer may fire a little before its time


async def test_a_statement_that_fails_is_told_with_the_class_of_its_error(
    database: Database, database_kind: str, events: Any
) -> None:
    async with database.reading() as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT * FROM nowhere"))

    (failed,) = events.of(QueryFailed)
    assert failed.statement == "SELECT * FROM nowhere"
    assert failed.error == {"sqlite": "OperationalError", "postgresql": "UndefinedTableError"}[database_kind]
    assert events.of(QueryExecuted) == []

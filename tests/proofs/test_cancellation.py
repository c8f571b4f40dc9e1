"""A cancelled request leaves no query behind and no connection checked out."""

import asyncio
import contextlib
import random
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from backstay import ReadSessionDep, SessionDep, create_app, public
from backstay.db import Database
from backstay.settings import Settings

pytestmark = [pytest.mark.proof, pytest.mark.databases("postgresql")]

tables = MetaData()
rows = Table("proof_cancelled", tables, Column("id", Integer, primary_key=True))

_CHANCES = 10
SLOW = "SELECT pg_sleep(20) /* left behind */"


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


router = APIRouter()


@router.get("/slow")
async def read_slowly(session: SessionDep, reading: ReadSessionDep) -> None:
    await session.execute(text("SELECT 1"))
    await reading.execute(text(SLOW))


@router.post("/rows")
async def write_slowly(session: SessionDep) -> None:
    await session.execute(text("SELECT pg_sleep(0.02)"))
    await session.execute(insert(rows))


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


async def _left_behind(database: Database) -> int:
    async with database.reading() as session:
        running = (
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%left behind%'"
        )
        own = "AND datname = current_database() AND pid <> pg_backend_pid()"
        return int(await session.scalar(text(f"{running} {own}")) or 0)


def _checked_out(engine: AsyncEngine) -> int:
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


async def _leave(url: str, request: str) -> None:
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
    await writer.drain()
    await asyncio.sleep(random.uniform(0.001, 0.05))
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _at_once(work: Any, *, times: int, at_once: int) -> None:
    limit = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with limit:
            await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(times):
            group.create_task(one())


async def test_a_caller_that_leaves_while_reading_leaves_nothing_behind(
    app: FastAPI, live_server: Any, database: Database, length: Any
) -> None:
    await _at_once(
        lambda: _leave(live_server.url, "GET /slow"), times=length(short=60, full=1000), at_once=10
    )
    await asyncio.sleep(1)

    assert await _left_behind(database) == 0
    serving = app.state.backstay.database
    assert (_checked_out(serving.engine), _checked_out(serving.read_engine)) == (0, 0)


async def test_a_caller_that_leaves_while_writing_does_not_undo_it(
    app: FastAPI, live_server: Any, database: Database, length: Any
) -> None:
    times = length(short=40, full=200)
    await _at_once(lambda: _leave(live_server.url, "POST /rows"), times=times, at_once=10)
    await asyncio.sleep(1)

    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(rows)) == times
    assert _checked_out(app.state.backstay.database.engine) == 0


async def test_a_cancel_scope_that_fires_leaves_nothing_behind(database: Database, length: Any) -> None:
    async def cancelled() -> None:
        with anyio.move_on_after(random.uniform(0.001, 0.05)):
            async with database.transaction() as session:
                await session.execute(text(SLOW))

    await _at_once(cancelled, times=length(short=60, full=1000), at_once=10)
    await asyncio.sleep(1)

    assert await _left_behind(database) == 0
    assert _checked_out(database.engine) == 0


async def test_without_backstay_the_same_cancel_scopes_leave_queries_running(database: Database) -> None:
    """The fault: SQLAlchemy's own engine and session under anyio's cancellation."""
    engine = create_async_engine(database.engine.url)
    maker = async_sessionmaker(engine)

    async def cancelled() -> None:
        with anyio.move_on_after(random.uniform(0.001, 0.05)):
            async with maker() as session:
                await session.execute(text(SLOW))

    for _ in range(_CHANCES):  # which moment a scope hits is chance
        await _at_once(cancelled, times=60, at_once=10)
        await asyncio.sleep(1)
        if await _left_behind(database) > 0:
            break
    else:
        pytest.fail(f"{_CHANCES} times 60 cancel scopes left nothing behind: does the fault still exist?")
    async with database.engine.connect() as connection:
        stop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%left behind%'"
        await connection.execute(text(f"{stop} AND datname = current_database() AND pid <> pg_backend_pid()"))
    await engine.dispose()

"""Twenty callers on a pool of five, each with a second session inside its first: no deadlock, no hang."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from backstay import ReadSessionDep, SessionDep, create_app, current_runtime, public
from backstay.db import Database
from backstay.settings import Settings

pytestmark = [pytest.mark.proof, pytest.mark.databases("postgresql")]

CALLERS = 20
WAIT = timedelta(seconds=2)
SLACK_SECONDS = 1.0
WORK = text("SELECT pg_sleep(0.01)")

_NO_TABLES = MetaData()


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return _NO_TABLES


router = APIRouter(dependencies=[public])


@router.post("/nested")
async def nest(session: SessionDep) -> None:
    await session.execute(WORK)
    async with current_runtime().database.transaction() as inner:
        await inner.execute(WORK)


@router.post("/twice-nested")
async def nest_twice(session: SessionDep) -> None:
    await session.execute(WORK)
    async with current_runtime().database.transaction() as inner:
        await inner.execute(WORK)
        async with current_runtime().database.transaction() as innermost:
            await innermost.execute(WORK)


@router.post("/write-then-read")
async def write_then_read(session: SessionDep, reading: ReadSessionDep) -> None:
    await session.execute(WORK)
    await reading.execute(WORK)


@router.post("/read-then-write")
async def read_then_write(session: SessionDep, reading: ReadSessionDep) -> None:
    await reading.execute(WORK)
    await session.execute(WORK)


@router.get("/slow")
async def read_slowly(reading: ReadSessionDep) -> None:
    await reading.execute(text("SELECT pg_sleep(0.3)"))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    five = {"pool_size": 5, "pool_overflow": 0, "pool_timeout": WAIT}
    return settings.model_copy(update={"database": settings.database.model_copy(update=five)})


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router])


async def call_at_once(
    client: AsyncClient, *paths: str, method: str = "POST"
) -> tuple[list[Response], float]:
    """Return the answers of twenty callers, who take turns with the paths, and when the last of them came."""
    began = time.monotonic()
    calls = (client.request(method, paths[number % len(paths)]) for number in range(CALLERS))
    return await asyncio.gather(*calls), time.monotonic() - began


def are_honest(answers: list[Response]) -> bool:
    """Return whether each has succeeded, or says when to come again."""
    return all(
        answer.status_code == 200 or (answer.status_code == 503 and "Retry-After" in answer.headers)
        for answer in answers
    )


def is_whole(database: Database) -> bool:
    """Return whether all connections and all places are free."""
    pools: list[Any] = [database.engine.pool, database.read_engine.pool]
    return all(pool.checkedout() == 0 and pool._admission._free == 4 for pool in pools)


@pytest.mark.parametrize("paths", [("/nested",), ("/write-then-read", "/read-then-write")], ids="+".join)
async def test_callers_with_two_sessions_do_not_wait_for_each_other(
    client: AsyncClient, database: Database, length: Any, paths: tuple[str, ...]
) -> None:
    for _ in range(length(short=3, full=100)):
        answers, seconds = await call_at_once(client, *paths)

        assert [answer.status_code for answer in answers] == [200] * CALLERS
        assert seconds < WAIT.total_seconds()
    assert is_whole(database)


async def test_callers_with_three_have_an_answer_in_time(
    client: AsyncClient, database: Database, length: Any
) -> None:
    """Four may begin, and one connection more does not do for all: some of them are told to come again."""
    for _ in range(length(short=1, full=10)):
        answers, seconds = await call_at_once(client, "/twice-nested")

        assert are_honest(answers)
        assert seconds < 2 * WAIT.total_seconds() + SLACK_SECONDS
    assert is_whole(database)


async def test_who_cannot_be_served_in_time_is_told_so_and_the_service_lives(
    client: AsyncClient, database: Database, length: Any
) -> None:
    for _ in range(length(short=1, full=10)):
        slow = asyncio.gather(*(client.get("/slow") for _ in range(3 * CALLERS)))
        await asyncio.sleep(0.2)
        alive = await client.get("/livez")
        answers = await slow

        assert alive.status_code == 200
        assert are_honest(answers)
        served = sum(answer.status_code == 200 for answer in answers)
        assert CALLERS / 2 <= served < 3 * CALLERS
    assert is_whole(database)


@pytest.fixture
async def plain_client(database: Database) -> AsyncIterator[AsyncClient]:
    """An app as a tutorial has it, with the same pool."""
    engine = create_async_engine(
        database.engine.url, pool_size=5, max_overflow=0, pool_timeout=WAIT.total_seconds()
    )
    maker, app = async_sessionmaker(engine), FastAPI()

    @app.post("/nested")
    async def nest() -> None:
        async with maker() as session, maker() as inner:
            await session.execute(WORK)
            await inner.execute(WORK)

    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://plain") as client:
        yield client
    await engine.dispose()


async def test_without_backstay_they_wait_for_each_other_until_time_is_up(plain_client: AsyncClient) -> None:
    answers, seconds = await call_at_once(plain_client, "/nested")

    assert 500 in [answer.status_code for answer in answers]
    assert seconds > WAIT.total_seconds()

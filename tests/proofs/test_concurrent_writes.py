"""Read-modify-writes that meet: each one counts, or its caller is told that it does not."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient, Limits
from sqlalchemy import Column, Integer, MetaData, Table, insert, select, update

from backstay import SessionDep, create_app, public, repeatable
from backstay.db import AsyncSession, Database
from backstay.settings import Settings

pytestmark = pytest.mark.proof

tables = MetaData()
counters = Table("proof_counters", tables, Column("id", Integer, primary_key=True), Column("value", Integer))


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


router = APIRouter()


async def _add_one(session: AsyncSession) -> int:
    value = await session.scalar(select(counters.c.value)) or 0
    await session.execute(update(counters).values(value=value + 1))
    return value + 1


@router.post("/once")
async def add_one(session: SessionDep) -> int:
    return await _add_one(session)


@router.post("/repeatable", dependencies=[repeatable])
async def add_one_repeatably(session: SessionDep) -> int:
    return await _add_one(session)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """On a busy machine the last of two hundred callers has its turn later than `pool_timeout` allows."""
    database = settings.database.model_copy(update={"pool_timeout": timedelta(seconds=20)})
    return settings.model_copy(update={"database": database})


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


async def _call_at_once(url: str, path: str, *, times: int) -> list[int]:
    async with AsyncClient(base_url=url, timeout=30, limits=Limits(max_connections=times)) as client:
        responses = await asyncio.gather(*(client.post(path) for _ in range(times)))
    return sorted(response.status_code for response in responses)


async def _begin_at_zero(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(insert(counters).values(id=1, value=0))


async def _value(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(counters.c.value)) or 0


@pytest.mark.databases("sqlite")
async def test_eight_read_modify_writes_on_sqlite_end_at_eight(database: Database, live_server: Any) -> None:
    await _begin_at_zero(database)

    assert await _call_at_once(live_server.url, "/once", times=8) == [200] * 8

    assert await _value(database) == 8


@pytest.mark.databases("postgresql")
async def test_unmarked_read_modify_writes_on_postgresql_lose_updates(
    database: Database, live_server: Any
) -> None:
    """The fault: each of them succeeds, and most of them are lost."""
    await _begin_at_zero(database)

    assert await _call_at_once(live_server.url, "/once", times=100) == [200] * 100

    assert await _value(database) < 100


@pytest.mark.databases("postgresql")
async def test_two_hundred_repeatable_read_modify_writes_on_postgresql_all_succeed(
    database: Database, live_server: Any
) -> None:
    await _begin_at_zero(database)

    assert await _call_at_once(live_server.url, "/repeatable", times=200) == [200] * 200

    assert await _value(database) == 200

"""Of changes based on one version a single one succeeds, and every other caller is told: none is lost."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient, Limits, Response
from sqlalchemy import MetaData, select
from sqlalchemy.orm import Mapped, mapped_column

from backstay import (
    ETagDep,
    IfMatchDep,
    Model,
    ReadSessionDep,
    Schema,
    SessionDep,
    VersionMixin,
    create_app,
    public,
)
from backstay.db import Database
from backstay.db.model import NAMING_CONVENTION
from backstay.settings import Settings

pytestmark = [pytest.mark.proof, pytest.mark.databases("sqlite", "postgresql")]

CALLERS = 200


class Base(Model):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Tally(VersionMixin, Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


class Unguarded(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


class TallyRead(Schema):
    value: int
    version: int


class TallyPatch(Schema):
    value: int


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Base.metadata


router = APIRouter()


@router.get("/tally")
async def read(session: ReadSessionDep, etag: ETagDep) -> TallyRead:
    return TallyRead.model_validate(etag.tag(await session.get_one(Tally, 1)))


@router.patch("/tally")
async def change(patch: TallyPatch, session: SessionDep, if_match: IfMatchDep) -> TallyRead:
    tally = if_match.check(await session.get_one(Tally, 1))
    tally.value = patch.value
    await session.flush()
    return TallyRead.model_validate(tally)


@router.get("/unguarded")
async def read_unguarded(session: ReadSessionDep) -> int:
    return (await session.get_one(Unguarded, 1)).value


@router.patch("/unguarded")
async def change_unguarded(patch: TallyPatch, session: SessionDep) -> None:
    (await session.get_one(Unguarded, 1)).value = patch.value


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    # All callers wait for the same few connections; how long that may take is another promise.
    patient = settings.database.model_copy(update={"pool_timeout": timedelta(seconds=60)})
    return create_app(
        settings.model_copy(update={"database": patient}), routers=[router], dependencies=[public]
    )


@pytest.fixture
async def caller(database: Database, live_server: Any) -> Any:
    async with database.transaction() as session:
        session.add_all([Tally(id=1), Unguarded(id=1)])
    async with AsyncClient(
        base_url=live_server.url, timeout=60, limits=Limits(max_connections=CALLERS)
    ) as client:
        yield client


async def _value(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(Tally.value)) or 0


async def test_without_versions_two_hundred_changes_of_one_reading_all_succeed_and_all_but_one_are_lost(
    caller: AsyncClient,
) -> None:
    """The fault: each caller adds one to what it has read, and each is told that it did."""
    read_value = (await caller.get("/unguarded")).json()

    answers = await asyncio.gather(
        *(caller.patch("/unguarded", json={"value": read_value + 1}) for _ in range(CALLERS))
    )

    assert {answer.status_code for answer in answers} == {200}
    assert (await caller.get("/unguarded")).json() == 1


async def test_of_two_hundred_changes_of_one_version_one_succeeds(
    caller: AsyncClient, database: Database
) -> None:
    tag = (await caller.get("/tally")).headers["etag"]

    answers = await asyncio.gather(
        *(
            caller.patch("/tally", json={"value": number}, headers={"If-Match": tag})
            for number in range(1, CALLERS + 1)
        )
    )

    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: CALLERS - 1}
    won = next(answer for answer in answers if answer.status_code == 200)
    assert won.json() == {"value": await _value(database), "version": 2}


async def test_callers_that_read_again_after_412_lose_no_update(
    caller: AsyncClient, database: Database, length: Any
) -> None:
    callers = length(short=12, full=40)

    async def add_one() -> int:
        refused = 0
        while (answer := await _read_and_add_one(caller)).status_code == 412:
            refused += 1
        assert answer.status_code == 200
        return refused

    refused = sum(await asyncio.gather(*(add_one() for _ in range(callers))))

    assert await _value(database) == callers
    assert refused  # they did meet


async def _read_and_add_one(caller: AsyncClient) -> Response:
    read_answer = await caller.get("/tally")
    value = read_answer.json()["value"] + 1
    return await caller.patch(
        "/tally", json={"value": value}, headers={"If-Match": read_answer.headers["etag"]}
    )

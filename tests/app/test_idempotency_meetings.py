"""Two requests with one idempotency key at the same moment, in one worker and in two."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from fastapi import APIRouter, FastAPI, Request
from httpx2 import ASGITransport, AsyncClient, Response
from sqlalchemy import MetaData, func, select, text
from sqlalchemy.orm import Mapped, mapped_column

from backstay import Model, SessionDep, create_app, idempotent, public
from backstay.db import Database
from backstay.db.model import NAMING_CONVENTION
from backstay.db.records import idempotency_table
from backstay.settings import IdempotencySettings, Settings

pytestmark = pytest.mark.databases("sqlite", "postgresql")


class Base(Model):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Order(Base):
    id: Mapped[int] = mapped_column(primary_key=True)


idempotency_table.to_metadata(Base.metadata)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Base.metadata


class Gate:
    """Holds the first request inside of its route."""

    def __init__(self) -> None:
        self.is_reached = asyncio.Event()
        self.is_open = asyncio.Event()

    async def pass_through(self) -> None:
        if not self.is_reached.is_set():
            self.is_reached.set()
            await self.is_open.wait()


router = APIRouter()
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd"}
MARKED = [idempotent()]


@router.post("/unmarked")
async def create(session: SessionDep) -> int:
    order = Order()
    session.add(order)
    await session.flush()
    return order.id


@router.post("/gated", dependencies=MARKED)
async def create_behind_gate(request: Request, session: SessionDep) -> int:
    number = await create(session)
    await request.app.state.gate.pass_through()
    return number


@router.post("/committing", dependencies=MARKED)
async def commit_then_wait(request: Request, session: SessionDep) -> int:
    number = await create(session)
    await session.commit()
    await request.app.state.gate.pass_through()
    return number


@router.post("/limits", dependencies=MARKED)
async def show_limit(session: SessionDep) -> str:
    return str(await session.scalar(text("SHOW lock_timeout")))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_limits(settings, wait=timedelta(seconds=30), lock_timeout=timedelta(seconds=2))


def with_limits(settings: Settings, *, wait: timedelta, lock_timeout: timedelta) -> Settings:
    database = settings.database.model_copy(update={"lock_timeout": lock_timeout})
    return settings.model_copy(update={"idempotency": IdempotencySettings(wait=wait), "database": database})


@pytest.fixture
def gate() -> Gate:
    return Gate()


def make_app(settings: Settings, gate: Gate) -> FastAPI:
    app = create_app(settings, routers=[router], dependencies=[public])
    app.state.gate = gate
    return app


@pytest.fixture
def app(settings: Settings, gate: Gate) -> FastAPI:
    return make_app(settings, gate)


@pytest.fixture
async def other_worker(settings: Settings, gate: Gate) -> AsyncIterator[AsyncClient]:
    app = make_app(settings, gate)
    transport = ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://other") as client,
    ):
        yield client


@pytest.fixture(params=["same worker", "other worker"])
def second_client(
    request: pytest.FixtureRequest, client: AsyncClient, other_worker: AsyncClient
) -> AsyncClient:
    """Sends the second request, to the worker of the first one or to another one."""
    return client if request.param == "same worker" else other_worker


async def orders(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(Order)) or 0


async def begin(client: AsyncClient, gate: Gate, path: str) -> asyncio.Task[Response]:
    """Send a request and return when it is inside of its route."""
    first = asyncio.create_task(client.post(path, headers=KEY))
    await gate.is_reached.wait()
    return first


class TestWaiting:
    async def test_the_second_waits_for_the_end_of_the_first(
        self, client: AsyncClient, second_client: AsyncClient, database: Database, gate: Gate
    ) -> None:
        first = await begin(client, gate, "/gated")
        second = asyncio.create_task(second_client.post("/gated", headers=KEY))
        await asyncio.wait({second}, timeout=0.2)
        was_done = second.done()
        gate.is_open.set()

        assert not was_done
        assert (await first).content == (await second).content
        assert "Idempotency-Replayed" in second.result().headers
        assert await orders(database) == 1

    async def test_after_one_that_broke_off_the_next_that_waited_does_the_work(
        self, client: AsyncClient, second_client: AsyncClient, database: Database, gate: Gate
    ) -> None:
        first = await begin(client, gate, "/gated")
        second = asyncio.create_task(second_client.post("/gated", headers=KEY))
        await asyncio.wait({second}, timeout=0.2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

        assert (await second).status_code == 200
        assert "Idempotency-Replayed" not in second.result().headers
        assert await orders(database) == 1

    async def test_what_a_route_has_committed_by_itself_is_not_done_again(
        self, client: AsyncClient, other_worker: AsyncClient, database: Database, gate: Gate
    ) -> None:
        first = await begin(client, gate, "/committing")
        between = await other_worker.post("/committing", headers=KEY)
        gate.is_open.set()

        assert (between.status_code, between.json()["code"]) == (409, "idempotency_key_in_use")
        assert (await first).content == (await other_worker.post("/committing", headers=KEY)).content
        assert await orders(database) == 1


@pytest.mark.databases("postgresql")
class TestLimits:
    """Which limit holds is told by the other one, under which each test would fail."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return with_limits(settings, wait=timedelta(milliseconds=50), lock_timeout=timedelta(minutes=9))

    async def test_who_waits_too_long_is_told_to_come_again(
        self, client: AsyncClient, second_client: AsyncClient, database: Database, gate: Gate
    ) -> None:
        first = await begin(client, gate, "/gated")
        second = await second_client.post("/gated", headers=KEY)
        gate.is_open.set()

        assert (second.status_code, second.json()["code"]) == (409, "idempotency_key_in_use")
        assert second.headers["Retry-After"] == "1"
        assert (await first).content == (await second_client.post("/gated", headers=KEY)).content
        assert await orders(database) == 1

    async def test_the_limit_is_for_keys_only(self, client: AsyncClient) -> None:
        assert (await client.post("/limits", headers=KEY)).json() == "9min"


@pytest.mark.databases("postgresql")
class TestPatience:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return with_limits(settings, wait=timedelta(minutes=9), lock_timeout=timedelta(milliseconds=50))

    async def test_the_limit_of_other_locks_is_not_for_keys(
        self, client: AsyncClient, second_client: AsyncClient, database: Database, gate: Gate
    ) -> None:
        first = await begin(client, gate, "/gated")
        second = asyncio.create_task(second_client.post("/gated", headers=KEY))
        await asyncio.wait({second}, timeout=0.5)
        gate.is_open.set()

        assert (await first).content == (await second).content
        assert await orders(database) == 1


@pytest.mark.databases("postgresql")
class TestCrowding:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        small = {"pool_size": 3, "pool_overflow": 0, "pool_timeout": timedelta(seconds=1)}
        return settings.model_copy(update={"database": settings.database.model_copy(update=small)})

    async def test_those_who_wait_for_a_key_leave_the_connections_to_others(
        self, client: AsyncClient, gate: Gate
    ) -> None:
        first = await begin(client, gate, "/gated")
        waiting = [asyncio.create_task(client.post("/gated", headers=KEY)) for _ in range(20)]
        await asyncio.wait(waiting, timeout=0.2)
        other = await client.post("/unmarked")
        gate.is_open.set()

        answers = await asyncio.gather(first, *waiting)
        assert other.status_code == 200
        assert {(answer.status_code, answer.content) for answer in answers} == {(200, first.result().content)}

"""Time is bounded: whatever a request waits for, its caller has an answer by the deadline.

Each fault is shown first: the same handler of a plain app waits for as long as what it waits for.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import Column, Integer, MetaData, Table, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import registry

from backstay import ReadSessionDep, SessionDep, cached, client, create_app, public
from backstay.db import Database
from backstay.settings import ClientSettings, Settings

from .postgresql_server import OwnServer, own_server
from .upstream import Call, Upstream, running

pytestmark = [pytest.mark.proof, pytest.mark.databases("postgresql")]

DEADLINE = timedelta(milliseconds=400)
DEADLINE_SECONDS = DEADLINE.total_seconds()
SLACK_SECONDS = 0.1

tables = MetaData()
rows = Table("proof_deadlines", tables, Column("id", Integer, primary_key=True))


class HaltedRow:
    """What is saved while nobody answers."""


registry(metadata=tables).map_imperatively(HaltedRow, rows)

SLEEP = text("SELECT pg_sleep(20) /* left behind */")
LOCK = text("LOCK TABLE proof_deadlines IN ACCESS EXCLUSIVE MODE")


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


router = APIRouter(dependencies=[public])


@router.get("/statement")
async def read_slowly(session: ReadSessionDep) -> None:
    await session.execute(SLEEP)


@router.post("/statement")
async def write_slowly(session: SessionDep) -> None:
    await session.execute(text("SELECT 1"))
    await session.execute(SLEEP)


@router.post("/lock")
async def wait_for_lock(session: SessionDep) -> None:
    await session.execute(LOCK)


@router.post("/pool")
async def wait_for_connection(session: SessionDep) -> None:
    await session.execute(text("SELECT 1"))


@router.get("/upstream")
async def call(upstream: Annotated[AsyncClient, client("slow")]) -> None:
    await upstream.get("/")


@cached("answer:{number}", ttl="1m")
async def get_answer(number: int) -> int:
    return number


@router.get("/cache")
async def read_cache() -> int:
    return await get_answer(42)


@router.get("/sleep")
async def sleep() -> None:
    await asyncio.sleep(20)


@router.get("/blocking-sleep")
def sleep_in_a_thread() -> None:
    time.sleep(1)


@pytest.fixture
async def upstream(anyio_backend: object) -> AsyncIterator[Upstream]:
    async def hang(call: Call) -> bytes:
        await asyncio.sleep(20)
        return b""

    async with running() as upstream:
        upstream.respond = hang  # type: ignore[method-assign]  # what it is for
        yield upstream


def bounded(settings: Settings, **sections: Any) -> Settings:
    http = settings.http.model_copy(update={"deadline": DEADLINE})
    long = {"lock_timeout": timedelta(minutes=1), "pool_timeout": timedelta(minutes=1)}
    database = settings.database.model_copy(update=long)
    return settings.model_copy(update={"http": http, "database": database, **sections})


@pytest.fixture
def settings(settings: Settings, upstream: Upstream) -> Settings:
    minute = timedelta(minutes=1)
    slow = ClientSettings(base_url=upstream.url, timeout=minute, read_timeout=minute)
    return bounded(settings, clients={"slow": slow})


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router])


class Lateness:
    """How late this machine wakes somebody up, at the most: that is nobody's fault here."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def measure(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            self.seconds = max(self.seconds, time.monotonic() - began - 0.01)


@pytest.fixture
async def lateness(anyio_backend: object) -> AsyncIterator[Lateness]:
    lateness = Lateness()
    task = asyncio.create_task(lateness.measure())
    yield lateness
    task.cancel()


def calling(app: FastAPI) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url="http://test")


async def measure(ask: Awaitable[Any]) -> tuple[int, str, float]:
    began = time.monotonic()
    response = await ask
    return response.status_code, response.json()["code"], time.monotonic() - began


async def left_behind(database: Database) -> int:
    active = "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND query LIKE '%left behind%'"
    async with database.reading() as session:
        own = "AND datname = current_database() AND pid <> pg_backend_pid()"
        return int(await session.scalar(text(f"{active} {own}")) or 0)


async def nothing_is_left(database: Database) -> bool:
    """Return whether all is as it was before, at once or a little later."""
    for _ in range(50):
        if await left_behind(database) == 0 and all(pool.checked_out == 0 for pool in database.pools()):
            return True
        await asyncio.sleep(0.05)
    return False


@asynccontextmanager
async def nothing(database: Database) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def lock_taken(database: Database) -> AsyncIterator[None]:
    async with database.engine.connect() as connection:
        await connection.execute(LOCK)
        yield


@asynccontextmanager
async def pool_taken(database: Database) -> AsyncIterator[None]:
    taken = [await database.engine.connect() for _ in range(database.pools()[0].limit)]
    yield
    for connection in taken:
        await connection.close()


WAITS: dict[str, tuple[Callable[[Database], Any], int, str]] = {
    "GET /statement": (nothing, 504, "deadline_exceeded"),
    "POST /statement": (nothing, 504, "deadline_exceeded"),
    "POST /lock": (lock_taken, 504, "deadline_exceeded"),
    "POST /pool": (pool_taken, 503, "unavailable"),
    "GET /upstream": (nothing, 504, "upstream_timeout or deadline_exceeded"),
    "GET /sleep": (nothing, 504, "deadline_exceeded"),
    "GET /blocking-sleep": (nothing, 504, "deadline_exceeded"),
}


@pytest.mark.parametrize("wait", WAITS)
async def test_each_wait_is_answered_by_the_deadline_and_leaves_nothing_behind(
    wait: str, client: AsyncClient, database: Database, lateness: Lateness, length: Any
) -> None:
    cause, status, code = WAITS[wait]
    method, path = wait.split()

    async with cause(database):
        for _ in range(length(short=1, full=20)):
            answered = await measure(client.request(method, path))
            assert answered[0] == status
            assert answered[1] in code.split(" or ")
            assert DEADLINE_SECONDS * 0.9 < answered[2] < DEADLINE_SECONDS + SLACK_SECONDS + lateness.seconds

    assert await nothing_is_left(database)


# A cache that hangs


async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        await reader.read()  # until the other side goes
    writer.close()


async def test_a_cache_that_hangs_is_waited_for_until_the_deadline(
    settings: Settings, lateness: Lateness
) -> None:
    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    silent = {
        "url": SecretStr(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"),
        "operation_timeout": timedelta(minutes=1),
    }
    settings = settings.model_copy(update={"cache": settings.cache.model_copy(update=silent)})
    app = create_app(settings, routers=[router])

    async with server, app.router.lifespan_context(app), calling(app) as client:
        answered = await measure(client.get("/cache"))

    assert answered[:2] == (504, "deadline_exceeded")
    assert answered[2] < DEADLINE_SECONDS + SLACK_SECONDS + lateness.seconds


# The fault


@pytest.fixture
async def plain_engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """SQLAlchemy as its tutorial has it; what its queries leave running is ended."""
    engine = create_async_engine(database.engine.url, pool_size=5, max_overflow=0)
    yield engine
    async with database.engine.connect() as connection:
        stop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        await connection.execute(text(f"{stop} AND pid <> pg_backend_pid()"))
    await engine.dispose()


def plain_app(engine: AsyncEngine, upstream: AsyncClient, silent: Redis) -> FastAPI:
    maker, app = async_sessionmaker(engine), FastAPI()

    @app.post("/statement")
    async def write_slowly() -> None:
        async with maker() as session:
            await session.execute(SLEEP)

    @app.post("/lock")
    async def wait_for_lock() -> None:
        async with maker() as session:
            await session.execute(LOCK)

    @app.post("/pool")
    async def wait_for_connection() -> None:
        async with maker() as session, maker() as other:
            await session.execute(text("SELECT pg_sleep(0.1)"))
            await other.execute(text("SELECT 1"))

    @app.get("/cache")
    async def read_cache() -> None:
        await silent.get("42")

    @app.get("/upstream")
    async def call() -> None:
        await upstream.get("/")

    app.add_api_route("/sleep", sleep, methods=["GET"])
    return app


async def test_without_backstay_none_of_them_has_an_answer_in_three_times_that_time(
    database: Database, plain_engine: AsyncEngine, upstream: Upstream
) -> None:
    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    silent = Redis.from_url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    others = ["POST /statement", "POST /lock", "GET /upstream", "GET /cache", "GET /sleep"]
    asked = [*others, *["POST /pool"] * 20]

    async with server, AsyncClient(base_url=upstream.url) as slow, lock_taken(database):
        async with calling(plain_app(plain_engine, slow, silent)) as client:
            requests = [asyncio.create_task(client.request(*wait.split())) for wait in asked]
            done, waiting = await asyncio.wait(requests, timeout=3 * DEADLINE_SECONDS)
            for request in waiting:
                request.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await silent.aclose()

    assert len(done) == 0


# PostgreSQL hangs


class Halting:
    """An app on a server of its own, which can be halted."""

    def __init__(self, app: FastAPI, server: OwnServer, client: AsyncClient) -> None:
        self.app = app
        self.server = server
        self.client = client
        self.database: Database = app.state.backstay.database


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


hanging = APIRouter(dependencies=[public])


@hanging.get("/read")
async def read(session: ReadSessionDep) -> int:
    return int(await session.scalar(text("SELECT 1")) or 0)


@hanging.post("/write")
async def write(session: SessionDep) -> None:
    await session.execute(text("SELECT 1"))
    await session.execute(text("SELECT 2"))


@hanging.post("/wait-inside")
async def wait_inside(session: SessionDep) -> None:
    await session.execute(text("SELECT 1"))
    await asyncio.sleep(20)


@hanging.post("/commit")
async def halt_and_commit(session: SessionDep, request: Request) -> None:
    await session.execute(text("SELECT 1"))
    request.app.state.halt()


@hanging.post("/flush")
async def halt_and_flush(session: SessionDep, request: Request) -> None:
    await session.execute(text("SELECT 1"))
    session.add(HaltedRow())
    request.app.state.halt()


@pytest.fixture
async def halting(settings: Settings, own: OwnServer) -> AsyncIterator[Halting]:
    database = settings.database.model_copy(update={"url": SecretStr(own.url)})
    app = create_app(settings.model_copy(update={"database": database}), routers=[hanging])
    async with app.router.lifespan_context(app), calling(app) as client:
        yield Halting(app, own, client)


async def test_while_postgresql_hangs_answers_come_by_the_deadline_and_soon_after_it_all_is_well(
    halting: Halting, lateness: Lateness
) -> None:
    """F7: also for requests that hold a connection already, or have to open one."""
    client, database = halting.client, halting.database
    asked = ["GET /read", "POST /write", "POST /wait-inside"] * 4
    inside = [asyncio.create_task(measure(client.post("/wait-inside"))) for _ in range(3)]
    await asyncio.gather(*(client.get("/read") for _ in range(5)))

    with halting.server.halted():
        answers = await asyncio.gather(*inside, *(measure(client.request(*each.split())) for each in asked))
        use = database.pools()
    began = time.monotonic()
    while (await client.get("/read")).status_code != 200:
        assert time.monotonic() - began < 5
    recovered_after = time.monotonic() - began

    assert {status for status, _, _ in answers} <= {503, 504}
    assert max(seconds for _, _, seconds in answers) < DEADLINE_SECONDS + SLACK_SECONDS + lateness.seconds
    assert all(pool.checked_out <= pool.limit for pool in use)
    assert recovered_after < 5
    assert await nothing_is_left(database)


@pytest.mark.parametrize(
    ("path", "status", "code", "grace_seconds"),
    [("/commit", 503, "outcome_unknown", 0.5), ("/flush", 504, "deadline_exceeded", 0.0)],
)
async def test_a_commit_that_hangs_is_waited_for_a_little_longer_and_then_its_outcome_is_unknown(
    halting: Halting,
    lateness: Lateness,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    status: int,
    code: str,
    grace_seconds: float,
) -> None:
    monkeypatch.setattr("backstay.db._session._COMMIT_SECONDS", 0.5)
    with ExitStack() as stack:
        halting.app.state.halt = lambda: stack.enter_context(halting.server.halted())
        answered = await measure(halting.client.post(path))

    assert answered[:2] == (status, code)
    assert DEADLINE_SECONDS + grace_seconds < answered[2]
    assert answered[2] < DEADLINE_SECONDS + grace_seconds + 0.35 + lateness.seconds
    assert await nothing_is_left(halting.database)

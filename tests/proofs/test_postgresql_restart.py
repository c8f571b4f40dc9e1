"""PostgreSQL is restarted under twenty clients: no read and no repeatable write fails, no other write lies.

The server is the test's own, so that nobody else loses connections.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from pydantic import SecretStr
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from backstay import ReadSessionDep, SessionDep, create_app, public, repeatable
from backstay.db import Database
from backstay.settings import DatabaseSettings, Settings

from .postgresql_server import OwnServer, own_server

pytestmark = pytest.mark.proof

CLIENTS = 20
AROUND_SECONDS = 0.4
"""How long the clients call before, between and after the restarts."""

tables = MetaData()
rows = Table("proof_restarted", tables, Column("id", Integer, primary_key=True))

router = APIRouter(dependencies=[public])


@router.get("/rows")
async def count(session: ReadSessionDep) -> int:
    return int(await session.scalar(select(func.count()).select_from(rows)) or 0)


@router.put("/rows/{number}", dependencies=[repeatable])
async def write_repeatably(number: int, session: SessionDep) -> None:
    await session.execute(insert(rows).values(id=number))


@router.post("/rows/{number}")
async def write(number: int, session: SessionDep) -> None:
    await session.execute(insert(rows).values(id=number))


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


@pytest.fixture
async def database(server: OwnServer, anyio_backend: object) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=SecretStr(server.url)))
    async with database.engine.begin() as connection:
        await connection.run_sync(tables.drop_all)
        await connection.run_sync(tables.create_all)
    yield database
    await database.close()


@pytest.fixture
async def client(database: Database) -> AsyncIterator[AsyncClient]:
    app = create_app(Settings(environment="test", database=database.settings), routers=[router])
    async with app.router.lifespan_context(app), calling(app) as client:
        yield client


def calling(app: FastAPI) -> AsyncClient:
    transport = ASGITransport(app, raise_app_exceptions=False)
    return AsyncClient(transport=transport, base_url="http://test")


@dataclass
class Kept:
    """What clients were told while the server was restarted.

    Attributes:
        answers: Each answer's method, status and code, counted.
        saved: The numbers of which a client was told that they are saved.
        longest_seconds: How long the slowest answer took.
    """

    answers: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    saved: set[int] = field(default_factory=set)
    longest_seconds: float = 0.0

    def failures(self, method: str) -> int:
        """How many were not told that all is well."""
        return sum(n for (asked, status, _), n in self.answers.items() if asked == method and status != 200)


def code_of(response: Response) -> str:
    """Return which problem it tells of."""
    is_problem = response.headers["Content-Type"] == "application/problem+json"
    return str(response.json()["code"]) if is_problem else ""


async def call_through_restarts(client: AsyncClient, server: OwnServer, *methods: str, restarts: int) -> Kept:
    kept, numbers, is_over = Kept(), itertools.count(1), asyncio.Event()

    async def call(method: str) -> None:
        while not is_over.is_set():
            number, began = next(numbers), time.monotonic()
            path = "/rows" if method == "GET" else f"/rows/{number}"
            response = await client.request(method, path)
            kept.longest_seconds = max(kept.longest_seconds, time.monotonic() - began)
            kept.answers[method, response.status_code, code_of(response)] += 1
            if method != "GET" and response.status_code == 200:
                kept.saved.add(number)
            await asyncio.sleep(0.005)  # the clients leave each other some of the processor

    async with asyncio.TaskGroup() as group:
        for position in range(CLIENTS):
            group.create_task(call(methods[position % len(methods)]))
        for _ in range(restarts):
            await asyncio.sleep(AROUND_SECONDS)
            await asyncio.to_thread(server.restart)
        await asyncio.sleep(AROUND_SECONDS)
        is_over.set()
    return kept


async def saved(database: Database) -> set[int]:
    async with database.reading() as session:
        return set(await session.scalars(select(rows.c.id)))


async def test_no_read_and_no_repeatable_write_fails(
    client: AsyncClient, server: OwnServer, database: Database, length: Any
) -> None:
    restarts = length(short=1, full=20)
    kept = await call_through_restarts(client, server, "GET", "PUT", restarts=restarts)

    assert kept.failures("GET") == kept.failures("PUT") == 0, kept
    assert await saved(database) == kept.saved
    assert kept.longest_seconds < 4 + restarts  # one after the other may hit the same request


async def test_other_writes_are_told_the_truth(
    client: AsyncClient, server: OwnServer, database: Database, length: Any
) -> None:
    kept = await call_through_restarts(client, server, "POST", restarts=length(short=1, full=20))

    assert {status for _, status, _ in kept.answers} <= {200, 503}
    assert kept.failures("POST") > 0
    assert kept.saved <= await saved(database)


async def test_without_backstay_reads_fail_although_the_pool_asks_each_connection(
    server: OwnServer, database: Database
) -> None:
    engine = create_async_engine(database.engine.url, pool_pre_ping=True)
    maker, app = async_sessionmaker(engine), FastAPI()

    @app.get("/rows")
    async def count() -> int:
        async with maker() as session:
            return int(await session.scalar(select(func.count()).select_from(rows)) or 0)

    async with calling(app) as client:
        kept = await call_through_restarts(client, server, "GET", restarts=1)
    await engine.dispose()

    assert kept.failures("GET") > 0

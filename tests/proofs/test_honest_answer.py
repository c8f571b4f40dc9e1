"""No success status leaves before its transaction is durable: real Uvicorn, real sockets, real databases."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, func, insert, select, text

from backstay import SessionDep, create_app, current_runtime, public
from backstay.db import Database
from backstay.settings import Settings

pytestmark = pytest.mark.proof

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "honest_answer.py"

tables = MetaData()
rows = Table(
    "proof_rows",
    tables,
    Column("id", Integer, primary_key=True),
    Column("value", Integer, default=0),
    Column("parent_id", ForeignKey("proof_rows.id", deferrable=True, initially="DEFERRED")),
)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


@pytest.mark.databases("sqlite", "postgresql")
class TestReadBacks:
    def test_no_read_back_right_after_a_2xx_misses_the_write(self, database_url: str, length: Any) -> None:
        result = _read_back(database_url, count=length(short=400, full=10_000))
        assert "0 of" in result.stdout, result.stdout + result.stderr
        assert result.returncode == 0

    def test_the_same_script_shows_the_defect_of_a_plain_app(self, database_url: str) -> None:
        result = _read_back(database_url, "--plain", count=400)
        assert result.returncode == 1, result.stdout + result.stderr
        assert (
            " of 400 read-backs right after a 2xx of a plain FastAPI app missed the write." in result.stdout
        )


def _read_back(url: str, *options: str, count: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARK), "--url", url, "--count", str(count), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


router = APIRouter()


@router.post("/orphans", status_code=201)
async def write_orphan(session: SessionDep) -> None:
    await session.execute(insert(rows).values(id=1, parent_id=4711))


@router.post("/suicides", status_code=201)
async def write_and_die(session: SessionDep) -> None:
    await session.execute(insert(rows).values(id=2))
    await session.execute(text("INSERT INTO proof_deaths VALUES (1)"))


@router.post("/unserialisable", status_code=201)
async def write_and_answer_nonsense(session: SessionDep) -> dict[str, int]:
    await session.execute(insert(rows).values(id=3))
    return {"number": "none"}  # type: ignore[dict-item]  # the point


@router.post("/conflicts", status_code=201)
async def write_on_a_snapshot(session: SessionDep) -> None:
    await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
    await session.scalar(select(func.sum(rows.c.value)))
    await _meanwhile(current_runtime().database)
    await session.execute(insert(rows).values(id=5))


async def _meanwhile(database: Database) -> None:
    async with database.transaction(isolation="SERIALIZABLE") as other:
        await other.scalar(select(func.sum(rows.c.value)))
        await other.execute(insert(rows).values(id=4))


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


@pytest.fixture
async def caller(live_server: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(base_url=live_server.url) as client:
        yield client


async def count(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(rows)) or 0


@pytest.mark.databases("sqlite", "postgresql")
class TestFailures:
    async def test_a_deferred_constraint_that_fails_at_commit_is_no_success(
        self, caller: AsyncClient, database: Database
    ) -> None:
        response = await caller.post("/orphans")
        assert response.status_code == 409
        assert response.headers["content-type"] == "application/problem+json"
        assert await count(database) == 0

    async def test_a_response_that_cannot_be_serialised_rolls_back(
        self, caller: AsyncClient, database: Database
    ) -> None:
        assert (await caller.post("/unserialisable")).status_code == 500
        assert await count(database) == 0


_DIE_AT_COMMIT = (
    "CREATE TABLE proof_deaths (id integer)",
    "CREATE FUNCTION proof_die() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER proof_die AFTER INSERT ON proof_deaths "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION proof_die()",
)


@pytest.mark.databases("postgresql")
class TestPostgreSQL:
    async def test_a_connection_killed_at_commit_is_no_success_and_the_next_request_works(
        self, caller: AsyncClient, database: Database
    ) -> None:
        async with database.transaction() as session:
            for statement in _DIE_AT_COMMIT:
                await session.execute(text(statement))

        response = await caller.post("/suicides")

        assert response.status_code == 503
        assert response.json()["code"] == "outcome_unknown"
        assert await count(database) == 0
        assert (await caller.post("/orphans")).status_code == 409

    async def test_a_serialisation_failure_is_no_success(
        self, caller: AsyncClient, database: Database
    ) -> None:
        response = await caller.post("/conflicts")

        assert response.status_code == 503
        assert response.json()["code"] == "retryable"
        async with database.reading() as session:
            assert (await session.scalars(select(rows.c.id))).all() == [4]

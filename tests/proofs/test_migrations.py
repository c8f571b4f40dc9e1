"""A migration cannot hurt you: it goes both ways, runs once, and lets the service answer while it waits."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from textwrap import dedent, indent
from time import perf_counter
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import Column, Connection, Integer, MetaData, Table, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from backstay import ReadSessionDep, create_app, public
from backstay.cli.new import create_service
from backstay.db import Database
from backstay.db.migrations import Migrations
from backstay.settings import MigrationSettings, Settings

pytestmark = pytest.mark.proof
on_both = pytest.mark.databases("sqlite", "postgresql")

tables = MetaData()
boats = Table("proof_boats", tables, Column("id", Integer, primary_key=True))
_NO_TABLES = MetaData()


@pytest.fixture
def metadata() -> MetaData:
    """Databases start empty."""
    return _NO_TABLES


# -- a history of 30 migrations


class Writer:
    """Writes the further history of a generated service, through the public door, with bodies of its own."""

    def __init__(self, service: Path) -> None:
        self.migrations = Migrations(MetaData(), service / "migrations")
        self._engine = create_async_engine("sqlite+aiosqlite://")
        self._count = 0

    async def add(self, upgrade: str, downgrade: str, **place: Any) -> str:
        """Write a migration and return its id."""
        self._count += 1
        message = f"Step {self._count}"
        path = await self.migrations.revision(self._engine, message=message, autogenerate=False, **place)
        body = path.read_text().replace(
            '"""Apply the change."""', indent(dedent(upgrade).strip(), "    ").strip()
        )
        body = body.replace('"""Take the change back."""', indent(dedent(downgrade).strip(), "    ").strip())
        imports = "import sqlalchemy as sa\nfrom alembic import op\n\nrevision: str"
        path.write_text(body.replace("revision: str", imports, 1))
        return _id(path)

    async def add_table(self, name: str, **place: Any) -> str:
        columns = 'sa.Column("id", sa.Integer(), primary_key=True), sa.Column("size", sa.Integer())'
        return await self.add(f'op.create_table("{name}", {columns})', f'op.drop_table("{name}")', **place)

    async def alter_table(self, name: str, **place: Any) -> str:
        """Add a column with a rule, and tighten another one: a rebuilt table on SQLite."""
        return await self.add(
            f"""
            with op.batch_alter_table("{name}") as batch:
                batch.add_column(sa.Column("weight", sa.Integer(), server_default="1", nullable=False))
                batch.create_check_constraint("ck_{name}_weight", "weight > 0")
                batch.alter_column("size", existing_type=sa.Integer(), nullable=False)
            """,
            f"""
            with op.batch_alter_table("{name}") as batch:
                batch.alter_column("size", existing_type=sa.Integer(), nullable=True)
                batch.drop_constraint("ck_{name}_weight", type_="check")
                batch.drop_column("weight")
            """,
            **place,
        )

    async def index_table(self, name: str, **place: Any) -> str:
        index = f'"ix_{name}_size", '
        return await self.add(
            f"""
            with op.get_context().autocommit_block():
                op.create_index({index}"{name}", ["size"], postgresql_concurrently=True)
            """,
            f"op.drop_index({index}table_name='{name}')",
            **place,
        )

    async def add_branch(self, label: str, *, after: str, **place: Any) -> str:
        """Write three migrations of a branch and return the id of the last."""
        head = await self.add_table(label, head=after, splice=True, branch_label=label, **place)
        head = await self.alter_table(label, head=head)
        return await self.index_table(label, head=head)

    def merge(self, *revisions: str) -> str:
        return _id(self.migrations.merge(revisions=revisions))

    async def close(self) -> None:
        await self._engine.dispose()


def _indented(code: str) -> str:
    return indent(dedent(code).strip(), "    ").strip()


def _id(path: Path) -> str:
    return path.stem.rpartition("_")[2]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> Path:
    """A generated service with 30 migrations: nine branches, one that needs another, four merges."""
    folder = create_service(tmp_path_factory.mktemp("proof") / "shop")
    writer = Writer(folder)
    head = writer.migrations.heads()[0].id
    for round_ in ("a", "b", "c"):
        ends = [await writer.add_branch(f"{round_}_first", after=head)]
        ends.append(await writer.add_branch(f"{round_}_second", after=head, depends_on=(f"{round_}_first",)))
        head = writer.merge(*ends)
    ends = [await writer.add_branch(f"d_{number}", after=head) for number in range(2)]
    head = writer.merge(*ends)
    head = await writer.add_table("last", head=head)
    await writer.alter_table("last", head=head)
    await writer.close()
    assert len(writer.migrations.history()) == 31
    return folder


def _describe(connection: Connection) -> dict[str, Any]:
    found = inspect(connection)
    return {
        name: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(name)],
            sorted(str(check["name"]) for check in found.get_check_constraints(name)),
            sorted(str(index["name"]) for index in found.get_indexes(name)),
            sorted(str(key["name"]) for key in found.get_foreign_keys(name)),
        )
        for name in found.get_table_names()
        if name != "alembic_version"
    }


async def describe(engine: AsyncEngine) -> dict[str, Any]:
    async with engine.connect() as connection:
        return await connection.run_sync(_describe)


@on_both
async def test_a_history_of_thirty_migrations_goes_up_down_and_up(service: Path, database: Database) -> None:
    migrations = Migrations(MetaData(), service / "migrations")

    up = await migrations.upgrade(database.engine)
    after_the_first = await describe(database.engine)
    down = await migrations.downgrade(database.engine, revision="base")
    assert await describe(database.engine) == {}
    up_again = await migrations.upgrade(database.engine)

    assert len(up) == len(down) == len(up_again) == len(migrations.history())
    assert await describe(database.engine) == after_the_first
    assert len(after_the_first) == 17
    assert await migrations.pending(database.engine) == ()


# -- two at once

PLAIN_UPGRADE = """
import sys, time
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

scripts = ScriptDirectory(sys.argv[2], version_locations=[sys.argv[2] + "/versions"])
def steps(heads, context):
    found = scripts._upgrade_revs("head", heads)
    print("ready", flush=True)
    sys.stdin.readline()
    return found
with sa.create_engine(sys.argv[1]).connect() as connection:
    context = MigrationContext.configure(connection, opts={"fn": steps, "script": scripts})
    with context.begin_transaction(), Operations.context(context):
        context.run_migrations()
    connection.commit()
"""


def _sync_url(database: Database) -> str:
    return database.url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that end with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.databases("postgresql")
async def test_of_two_plain_upgrades_at_once_one_fails(
    database: Database, service: Path, started: list[subprocess.Popen[str]]
) -> None:
    """The fault: both have seen an empty database and run all of it."""
    migrations = Migrations(MetaData(), service / "migrations")
    await migrations.upgrade(database.engine, revision="+1")
    await migrations.downgrade(database.engine, revision="base")  # leaves Alembic's own table
    command = [sys.executable, "-c", PLAIN_UPGRADE, _sync_url(database), str(service / "migrations")]
    started += [_start(command, service) for _ in range(2)]
    outputs = await _go(started)

    assert sorted(process.returncode for process in started) != [0, 0], outputs


UPGRADE = """
import asyncio, logging, sys
from pathlib import Path
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine
from backstay.db.migrations import Migrations

async def main() -> None:
    logging.basicConfig(level="INFO")
    engine = create_async_engine(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    done = await Migrations(MetaData(), Path(sys.argv[2])).upgrade(engine)
    print(*(revision.id for revision in done))
    await engine.dispose()

asyncio.run(main())
"""


@on_both
async def test_of_two_upgrades_at_once_one_waits_and_both_end_well(
    database: Database, service: Path, started: list[subprocess.Popen[str]], length: Any
) -> None:
    migrations = Migrations(MetaData(), service / "migrations")
    url = database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", UPGRADE, url, str(service / "migrations")]
    for _ in range(length(short=1, full=10)):
        started += [_start(command, service) for _ in range(2)]
        outputs = await _go(started)

        assert [process.returncode for process in started] == [0, 0], outputs
        ran = [revision for output, _ in outputs for revision in output.split()]
        assert sorted(ran) == sorted(revision.id for revision in migrations.history())
        if database.is_postgresql:
            assert any("Waiting for another process" in errors for _, errors in outputs)
        await migrations.downgrade(database.engine, revision="base")
        started.clear()


async def _go(processes: list[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    """Let processes that say when they are ready go on at the same moment, and return what they wrote."""
    for process in processes:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
    ends = (asyncio.to_thread(process.communicate, "go\n", timeout=60) for process in processes)
    return await asyncio.gather(*ends)


# -- a lock that a long transaction holds

router = APIRouter()


@router.get("/boats")
async def list_boats(session: ReadSessionDep) -> int:
    return len((await session.scalars(select(boats.c.id))).all())


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


@pytest.fixture
async def caller(live_server: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(base_url=live_server.url, timeout=30) as client:
        yield client


@asynccontextmanager
async def long_transaction(database: Database) -> AsyncIterator[None]:
    """A report that has read the table and takes its time."""
    async with database.engine.connect() as connection:
        await connection.execute(select(boats.c.id))
        yield


@pytest.fixture
async def service_database(database: Database) -> Database:
    async with database.engine.begin() as connection:
        await connection.run_sync(tables.create_all)
    return database


class Warnings(logging.Handler):
    """Counts the attempts that got no lock."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen = asyncio.Semaphore(0)

    def emit(self, record: logging.LogRecord) -> None:
        self._seen.release()

    async def wait_for(self, count: int) -> None:
        for _ in range(count):
            await self._seen.acquire()


@pytest.fixture
async def warnings() -> AsyncIterator[Warnings]:
    handler = Warnings()
    logger = logging.getLogger("backstay.db.migrations")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


ADD_COLUMN = "ALTER TABLE proof_boats ADD COLUMN length INTEGER"
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.mark.databases("postgresql")
async def test_behind_a_plain_alter_table_that_waits_every_reader_waits_too(
    service_database: Database, caller: AsyncClient
) -> None:
    """The fault: the reader is not in the way of the long transaction, and is not served."""
    plain = create_async_engine(service_database.engine.url)

    async def alter() -> None:
        async with plain.begin() as connection:
            await connection.execute(text(ADD_COLUMN))

    async with long_transaction(service_database):
        assert (await caller.get("/boats")).status_code == 200
        waiting = asyncio.create_task(alter())
        async with service_database.reading() as session:
            while not await session.scalar(text(WAITING)):
                assert not waiting.done()
        answers = await asyncio.gather(*(caller.get("/boats") for _ in range(5)))
    await waiting
    await plain.dispose()

    assert [answer.status_code for answer in answers] == [503] * 5


@pytest.mark.databases("postgresql")
async def test_a_migration_that_waits_for_a_lock_gives_up_and_is_tried_again_while_the_service_answers(
    service_database: Database,
    caller: AsyncClient,
    warnings: Warnings,
    tmp_path: Path,
    length: Any,
    record_property: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    (versions / "one.py").write_text(
        "from alembic import op\nrevision = 'one'\ndown_revision = None\n"
        f"def upgrade() -> None:\n    op.execute({ADD_COLUMN!r})\n"
    )
    limit = timedelta(milliseconds=length(short=300, full=1000))
    migrations = Migrations(tables, tmp_path, settings=MigrationSettings(lock_timeout=limit))
    answers: list[tuple[int, float]] = []

    async def call_until(done: asyncio.Event) -> None:
        while not done.is_set():
            began = perf_counter()
            response = await caller.get("/boats")
            answers.append((response.status_code, perf_counter() - began))

    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(call_until(done))
        async with long_transaction(service_database):
            upgrade = group.create_task(migrations.upgrade(service_database.engine))
            await warnings.wait_for(length(short=2, full=6))
            assert not upgrade.done()
        assert [revision.id for revision in await upgrade] == ["one"]
        done.set()

    longest = max(seconds for _, seconds in answers)
    record_property("longest_answer_seconds", longest)
    with capsys.disabled():
        print(f"\n{len(answers)} answers, the longest after {longest:.2f} s; lock timeout {limit}.")  # noqa: T201
    assert {status for status, _ in answers} == {200}
    assert longest < limit.total_seconds() + 1

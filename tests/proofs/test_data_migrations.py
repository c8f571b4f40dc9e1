"""A data migration that is killed again and again changes every row exactly once."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select

from backstay.db import Database

pytestmark = [pytest.mark.proof, pytest.mark.databases("sqlite", "postgresql")]

tables = MetaData()
counters = Table(
    "killed_counters",
    tables,
    Column("id", Integer, primary_key=True),
    Column("n", Integer, nullable=False, server_default="0"),
)

BATCH = 50
_DEADLINE_SECONDS = 60

# n + 1 is not idempotent: a batch that runs twice, or that is left out, shows.
MIGRATION = """
import os, signal
import sqlalchemy as sa

table = "killed_counters"


def migrate(connection, batch):
    rows = sa.table("killed_counters", sa.column("id"), sa.column("n"))
    changed = connection.execute(
        sa.update(rows).where(batch.holds(rows.c.id)).values(n=rows.c.n + 1)
    ).rowcount
    if os.environ["KILL"] == f"in {batch.number}":
        os.kill(os.getpid(), signal.SIGKILL)
    return changed
"""

PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
from pydantic import SecretStr
from backstay.db import Database
from backstay.db.migrations.data import DataMigrations
from backstay.settings import DatabaseSettings


def tell(progress):
    print(progress.batches_done, flush=True)
    if os.environ["KILL"] == f"after {progress.batches_done}":
        os.kill(os.getpid(), signal.SIGKILL)


async def main():
    database = Database(DatabaseSettings(url=SecretStr(sys.argv[1])))
    migrations = DataMigrations(Path(sys.argv[2]), batch_size=int(sys.argv[3]), rows_per_second=10**9)
    await migrations.run(database, "add_one", on_progress=tell)
    await database.close()


asyncio.run(main())
"""

# What people write: the place is kept, too, but in a transaction of its own.
NAIVE = """
import asyncio, os, signal, sys
import sqlalchemy as sa
from pydantic import SecretStr
from backstay.db import Database
from backstay.settings import DatabaseSettings


async def main():
    database = Database(DatabaseSettings(url=SecretStr(sys.argv[1])))
    size = int(sys.argv[3])
    async with database.reading() as session:
        place = await session.scalar(sa.text("SELECT place FROM naive_place"))
        last = await session.scalar(sa.text("SELECT max(id) FROM killed_counters"))
    while place < last:
        change = "UPDATE killed_counters SET n = n + 1 WHERE id > :place AND id <= :upto"
        async with database.transaction() as session:
            await session.execute(sa.text(change), {"place": place, "upto": place + size})
        if os.environ["KILL"] == f"after {place // size + 1}":
            os.kill(os.getpid(), signal.SIGKILL)
        place += size
        async with database.transaction() as session:
            await session.execute(sa.text("UPDATE naive_place SET place = :place"), {"place": place})
    await database.close()


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Any:
    """Starts a program in a process of its own, which kills itself where it is told to."""
    folder = tmp_path / "migrations" / "data"
    folder.mkdir(parents=True)
    (folder / "20261125_add_one.py").write_text(MIGRATION)

    def start_one(program: str = PROGRAM, *, kill: str = "never") -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", program, database_url, str(folder.parent), str(BATCH)]
        return subprocess.Popen(arguments, env={"KILL": kill}, stdout=subprocess.PIPE, text=True)

    return start_one


async def _fill(database: Database, *, batches: int) -> None:
    async with database.transaction() as session:
        await session.execute(insert(counters), [{"id": number + 1} for number in range(batches * BATCH)])


async def _changes(database: Database) -> Counter[int]:
    """Return how many rows were changed how often."""
    async with database.reading() as session:
        return Counter(await session.scalars(select(counters.c.n)))


def _finish(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=_DEADLINE_SECONDS)
    return process.returncode


def _kill_later(process: subprocess.Popen[str], *, seconds: float) -> tuple[int, int]:
    """Kill a program a moment after its first batch; return how many batches it found done and left done."""
    assert process.stdout is not None
    begun_at, first = int(process.stdout.readline()), int(process.stdout.readline())
    time.sleep(seconds)
    process.kill()
    lines, _ = process.communicate(timeout=_DEADLINE_SECONDS)
    assert process.returncode == -9
    return begun_at, max(first, *map(int, lines.split()), 0)


@pytest.mark.parametrize("place", ["in", "after"])
async def test_killed_in_each_batch_or_after_it_every_row_is_changed_once(
    database: Database, start: Any, length: Any, place: str
) -> None:
    kills = length(short=2, full=20)
    await _fill(database, batches=kills + 1)

    ends = [_finish(start(kill=f"{place} {number + 1}")) for number in range(kills)]
    last = _finish(start())

    assert (ends, last) == ([-9] * kills, 0)
    assert await _changes(database) == {1: (kills + 1) * BATCH}


async def test_killed_from_outside_at_any_moment_every_row_is_changed_once(
    database: Database, start: Any, length: Any
) -> None:
    kills = length(short=2, full=20)
    await _fill(database, batches=100 * kills)
    moments = random.Random(7)

    done = 0
    for _ in range(kills):
        begun_at, killed_at = _kill_later(start(), seconds=moments.uniform(0, 0.02))
        assert begun_at >= done
        done = killed_at
    last = _finish(start())

    assert (done < 100 * kills, last) == (True, 0)
    assert await _changes(database) == {1: 100 * kills * BATCH}


async def test_with_the_place_kept_beside_the_batch_one_kill_changes_rows_twice(
    database: Database, start: Any
) -> None:
    """The fault: between the commit of a batch and that of its place there is always a moment."""
    await _fill(database, batches=4)
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE naive_place (place integer)")
        await connection.exec_driver_sql("INSERT INTO naive_place VALUES (0)")

    ends = [_finish(start(NAIVE, kill="after 2")), _finish(start(NAIVE))]

    assert ends == [-9, 0]
    assert await _changes(database) == {1: 3 * BATCH, 2: BATCH}

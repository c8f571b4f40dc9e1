from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from backstay.db.migrations import (
    MigrationFailedError,
    Migrations,
    MigrationsLockedError,
    Revision,
)
from backstay.settings import MigrationSettings

from .conftest import Base, OpenEngine, Versions, ids, scalar, tables

# The server is shared: other databases may be migrated meanwhile.
ADVISORY_LOCKS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
TWO_AT_ONCE = """
import asyncio, sys
from pathlib import Path
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine
from backstay.db.migrations import Migrations

async def main() -> None:
    engine = create_async_engine(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    done = await Migrations(MetaData(), Path(sys.argv[2])).upgrade(engine)
    print(*(revision.id for revision in done))
    await engine.dispose()

asyncio.run(main())
"""


async def test_two_processes_upgrade_at_once_and_each_migration_runs_once(
    empty_url: str, empty_engine: AsyncEngine, directory: Path, versions: Versions, migrations: Migrations
) -> None:
    parent = None
    for number in range(10):
        versions.write_table(f"m{number}", parent)
        parent = f"m{number}"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", TWO_AT_ONCE, empty_url, str(directory),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"

    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))

    assert [process.returncode for process in processes] == [0, 0]
    ran = b" ".join(output for output, _ in outputs).split()
    assert sorted(ran) == [f"m{number}".encode() for number in range(10)]
    assert ids(await migrations.current(empty_engine)) == ["m9"]


async def test_two_upgrades_in_one_process_do_not_mix_their_databases(
    empty_engine: AsyncEngine,
    open_engine: OpenEngine,
    versions: Versions,
    migrations: Migrations,
    tmp_path: Path,
) -> None:
    for revision, parent in (("one", None), ("two", "one"), ("three", "two")):
        versions.write_table(revision, parent)
    other = open_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")

    await asyncio.gather(migrations.upgrade(empty_engine), migrations.upgrade(other))

    assert await tables(empty_engine) == await tables(other) == {"t_one", "t_two", "t_three"}


async def hold_lock(engine: AsyncEngine, kind: str, held: asyncio.Event, release: asyncio.Event) -> None:
    """Do what another migrating process does, for as long as told."""
    async with engine.connect() as connection:
        await connection.execution_options(sqlite_begin="IMMEDIATE")
        statement = f"SELECT pg_advisory_lock({0x6261636B73746179})" if kind == "postgresql" else "SELECT 1"
        await connection.exec_driver_sql(statement)
        held.set()
        await release.wait()
        if kind == "postgresql":
            await connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")


async def test_another_process_that_does_not_end_is_not_waited_for_forever(
    empty_engine: AsyncEngine, directory: Path, versions: Versions, backend: str
) -> None:
    versions.write_table("one", None)
    impatient = Migrations(
        Base.metadata, directory, settings=MigrationSettings(lock_wait=timedelta(milliseconds=200))
    )
    held, release = asyncio.Event(), asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(hold_lock(empty_engine, backend, held, release))
        await held.wait()
        with pytest.raises(MigrationsLockedError, match=r"for 0\.2 seconds"):
            await impatient.upgrade(empty_engine)
        release.set()

    assert ids(await impatient.upgrade(empty_engine)) == ["one"]


async def test_the_lock_is_given_back_when_a_migration_fails(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, backend: str
) -> None:
    path = versions.write("one", None, "raise ValueError")
    with pytest.raises(MigrationFailedError):
        await migrations.upgrade(empty_engine)
    path.unlink()
    versions.write_table("one", None)
    other = Migrations(
        Base.metadata, path.parent.parent, settings=MigrationSettings(lock_wait=timedelta(milliseconds=100))
    )

    assert ids(await other.upgrade(empty_engine)) == ["one"]
    if backend == "postgresql":
        held = await scalar(empty_engine, ADVISORY_LOCKS)
        assert held == 0


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_killed_connection_releases_the_lock_and_says_so(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write("one", None, 'op.execute("SELECT pg_terminate_backend(pg_backend_pid())")')

    with pytest.raises(MigrationFailedError):
        await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, ADVISORY_LOCKS) == 0


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_lock_that_cannot_be_given_back_ends_with_its_connection(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)

    def fail(*arguments: Any) -> None:
        if "pg_advisory_unlock" in arguments[2]:
            raise RuntimeError("not now")

    sa.event.listen(empty_engine.sync_engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="not now"):
        await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, ADVISORY_LOCKS) == 0


class FailingCursor(sqlite3.Cursor):
    """A disk that fails when the busy timeout is put back."""

    def execute(self, sql: str, *arguments: Any) -> FailingCursor:
        if sql == "PRAGMA busy_timeout = 5000":
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *arguments)


class FailingConnection(sqlite3.Connection):
    def cursor(self, *_: Any) -> Any:
        return super().cursor(FailingCursor)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_connection_whose_pragmas_cannot_be_restored_is_not_used_again(
    empty_url: str, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    address = empty_url.replace("+aiosqlite", "")
    engine = sa.create_engine(address, pool_size=1, connect_args={"factory": FailingConnection})

    with engine.connect() as connection:
        used = connection.connection.driver_connection
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            migrations.upgrade_on(connection)

    with engine.connect() as connection:
        assert connection.connection.driver_connection is not used
    engine.dispose()


async def test_a_cancelled_upgrade_leaves_no_lock_and_no_half_a_migration(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, directory: Path, backend: str
) -> None:
    pause = (
        "SELECT pg_sleep(60)"
        if backend == "postgresql"
        else (
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) "
            "SELECT max(i) FROM n"
        )
    )
    versions.write("one", None, f'op.execute("CREATE TABLE half (id INTEGER)")\nop.execute("{pause}")')
    reached = asyncio.Event()
    sa.event.listen(
        empty_engine.sync_engine,
        "before_cursor_execute",
        lambda *arguments: reached.set() if arguments[2] == pause else None,
    )
    task = asyncio.create_task(migrations.upgrade(empty_engine))
    await reached.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await tables(empty_engine) == set()
    (versions.folder / "one.py").unlink()
    versions.write_table("one", None)
    again = Migrations(Base.metadata, directory, settings=MigrationSettings(lock_wait=timedelta(seconds=5)))
    assert ids(await again.upgrade(empty_engine)) == ["one"]
    if backend == "sqlite":
        assert await scalar(empty_engine, "PRAGMA foreign_keys") == 1


async def test_a_blocking_upgrade_waits_for_one_in_another_thread(
    empty_url: str, directory: Path, versions: Versions, backend: str
) -> None:
    versions.write("one", None, "import threading\nthreading.inside.set()\nthreading.go.wait(10)")
    inside, go = threading.Event(), threading.Event()
    threading.inside, threading.go = inside, go  # type: ignore[attr-defined]
    engine = sa.create_engine(empty_url.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg"))

    def upgrade(wait: timedelta) -> tuple[Revision, ...]:
        with engine.connect() as connection:
            return Migrations(
                Base.metadata, directory, settings=MigrationSettings(lock_wait=wait)
            ).upgrade_on(connection)

    first = asyncio.create_task(asyncio.to_thread(upgrade, timedelta(seconds=10)))
    await asyncio.to_thread(inside.wait, 10)
    with pytest.raises(MigrationsLockedError):
        await asyncio.to_thread(upgrade, timedelta(milliseconds=50))
    go.set()

    assert ids(await first) == ["one"]
    engine.dispose()

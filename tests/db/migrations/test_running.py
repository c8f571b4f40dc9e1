from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from backstay.db.migrations import (
    ForeignKeysBrokenError,
    MigrationFailedError,
    Migrations,
)
from backstay.errors import UsageError

from .conftest import OpenEngine, Versions, ids, run, scalar, tables


async def test_a_failed_migration_is_rolled_back_and_those_before_it_are_kept(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    path = versions.write(
        "two",
        "one",
        """
        op.create_table("half", sa.Column("id", sa.Integer(), primary_key=True))
        op.execute("INSERT INTO half (id) VALUES (1)")
        op.execute("INSERT INTO no_such_table (id) VALUES (1)")
        """,
    )

    with pytest.raises(MigrationFailedError, match="no_such_table") as caught:
        await migrations.upgrade(empty_engine)

    assert (caught.value.path, caught.value.line) == (path, 9)
    assert "INSERT" not in str(caught.value)
    assert await tables(empty_engine) == {"t_one"}
    assert ids(await migrations.current(empty_engine)) == ["one"]


async def test_a_migration_that_raises_by_itself_is_named_with_its_line(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write("one", None, 'raise ValueError("not today")')

    with pytest.raises(MigrationFailedError, match=r"one\.py, line 7, failed: ValueError: not today"):
        await migrations.upgrade(empty_engine)


async def test_a_database_that_goes_away_is_not_blamed_on_a_file(
    migrations: Migrations, versions: Versions, open_engine: OpenEngine, tmp_path: Path
) -> None:
    versions.write_table("one", None)
    (tmp_path / "text.db").write_text("this is no database, " * 100)

    with pytest.raises(sa.exc.DatabaseError):
        await migrations.upgrade(open_engine(f"sqlite+aiosqlite:///{tmp_path / 'text.db'}"))


async def test_an_error_beside_the_files_is_not_blamed_on_one(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)

    def fail(*arguments: Any) -> None:
        if "CREATE TABLE alembic_version" in arguments[2]:
            raise RuntimeError("the disk is full")

    sa.event.listen(empty_engine.sync_engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        await migrations.upgrade(empty_engine)


# -- SQLite's foreign keys

REBUILD_PARENT = """
with op.batch_alter_table("parents") as batch:
    batch.alter_column("name", existing_type=sa.Text(), nullable=False)
"""


async def families(engine: AsyncEngine) -> None:
    await run(engine, "CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT)")
    await run(
        engine,
        "CREATE TABLE children (id INTEGER PRIMARY KEY, "
        "parent_id INTEGER REFERENCES parents (id) ON DELETE CASCADE)",
    )
    await run(engine, "INSERT INTO parents (id, name) VALUES (1, 'Ada')")
    await run(engine, "INSERT INTO children (id, parent_id) VALUES (1, 1)")


async def test_rebuilding_a_table_keeps_the_rows_that_refer_to_it(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    await families(empty_engine)
    versions.write("one", None, REBUILD_PARENT)

    await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, "SELECT count(*) FROM children") == 1


async def test_a_migration_that_leaves_rows_pointing_nowhere_is_rolled_back(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, backend: str
) -> None:
    await families(empty_engine)
    versions.write("one", None, 'op.execute("UPDATE children SET parent_id = 7")')

    expected = ForeignKeysBrokenError if backend == "sqlite" else MigrationFailedError
    with pytest.raises(expected, match="children"):
        await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, "SELECT parent_id FROM children") == 1
    assert await migrations.current(empty_engine) == ()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("outcome", ["pass", "raise ValueError"])
async def test_sqlite_enforces_foreign_keys_again_afterwards(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, outcome: str
) -> None:
    versions.write("one", None, outcome)

    if outcome == "pass":
        await migrations.upgrade(empty_engine)
    else:
        with pytest.raises(MigrationFailedError):
            await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, "PRAGMA foreign_keys") == 1
    assert await scalar(empty_engine, "PRAGMA busy_timeout") == 5000


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_an_engine_that_lets_the_driver_begin_has_transactional_migrations_too(
    empty_url: str, migrations: Migrations, versions: Versions
) -> None:
    versions.write("one", None, 'op.execute("CREATE TABLE half (id INTEGER)")\nraise ValueError')
    engine = sa.create_engine(empty_url.replace("+aiosqlite", ""))

    with engine.connect() as connection:
        with pytest.raises(MigrationFailedError):
            migrations.upgrade_on(connection)
        assert sa.inspect(connection).get_table_names() == []
    engine.dispose()


# -- transactions


async def test_what_cannot_run_in_a_transaction_runs_on_both(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    versions.write(
        "two",
        "one",
        """
        with op.get_context().autocommit_block():
            op.create_index("ix_id", "t_one", ["id"], postgresql_concurrently=True)
        """,
    )
    versions.write_table("three", "two")

    assert ids(await migrations.upgrade(empty_engine)) == ["one", "two", "three"]
    async with empty_engine.connect() as connection:
        indexes = await connection.run_sync(lambda sync: sa.inspect(sync).get_indexes("t_one"))
    assert [index["name"] for index in indexes] == ["ix_id"]


async def test_a_connection_inside_of_a_transaction_is_refused(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    async with empty_engine.begin() as connection:
        with pytest.raises(UsageError, match="no transaction"):
            await connection.run_sync(migrations.upgrade_on)


async def test_blocking_use_works_where_no_loop_runs(
    empty_url: str, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    engine = sa.create_engine(empty_url.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg"))

    def work() -> list[list[str]]:
        with engine.connect() as connection:
            done = [ids(migrations.upgrade_on(connection)), ids(migrations.current_on(connection))]
            connection.rollback()
            return [*done, ids(migrations.downgrade_on(connection, revision="base"))]

    assert await asyncio.to_thread(work) == [["one"], ["one"], ["one"]]
    engine.dispose()


async def test_nothing_is_printed_and_what_ran_is_logged(
    empty_engine: AsyncEngine,
    migrations: Migrations,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="backstay.db.migrations")

    path = await migrations.revision(empty_engine, message="Add sails")
    await migrations.upgrade(empty_engine)

    assert capfd.readouterr() == ("", "")
    assert f"Ran migration {path.stem.rpartition('_')[2]}" in caplog.messages


def test_asking_what_is_pending_does_not_import_alembic(
    directory: Path, versions: Versions, tmp_path: Path
) -> None:
    versions.write_table("one", None)
    script = f"""
        import asyncio, sys
        from pathlib import Path
        from sqlalchemy import MetaData
        from sqlalchemy.ext.asyncio import create_async_engine
        from backstay.db.migrations import Migrations, MigrationsPendingError

        async def main() -> None:
            engine = create_async_engine("sqlite+aiosqlite:///{tmp_path / "asked.db"}")
            try:
                await Migrations(MetaData(), Path({str(directory)!r})).require_current(engine)
            except MigrationsPendingError as error:
                print(error)
            await engine.dispose()

        asyncio.run(main())
        assert "alembic" not in sys.modules
    """

    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, check=True)

    assert done.stdout == "The database lacks 1 migration, up to one.py.\n"

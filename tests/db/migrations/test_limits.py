"""How long migrations wait, what they do when they got no lock, and what one that broke off has left."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from backstay.db.migrations import (
    MigrationBlockedError,
    MigrationFailedError,
    MigrationHalfDoneError,
    Migrations,
)
from backstay.db.migrations._limits import limited
from backstay.settings import MigrationSettings

from .conftest import Base, Versions, ids, run, scalar, tables

on_postgresql = pytest.mark.databases("postgresql")
on_both = pytest.mark.databases("sqlite", "postgresql")

ADD_COLUMN = 'op.add_column("boats", sa.Column("length", sa.Integer()))'
DROP_COLUMN = 'op.drop_column("boats", "length")'
INDEX = """
with op.get_context().autocommit_block():
    op.create_index("ix_boats_name", "boats", ["name"], unique=True, postgresql_concurrently=True)
"""


@pytest.fixture
def impatient(directory: Path) -> Migrations:
    settings = MigrationSettings(lock_timeout=timedelta(milliseconds=100), attempts=4)
    return Migrations(Base.metadata, directory, settings=settings)


@pytest.fixture
async def boats(engine: AsyncEngine) -> AsyncEngine:
    """A database with a table that has two rows of one name."""
    await run(engine, "CREATE TABLE boats (name TEXT)")
    await run(engine, "INSERT INTO boats (name) VALUES ('Ada'), ('Ada')")
    return engine


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[int]:
    """A transaction that has read the boats and does not end; yields its process on the server."""
    async with engine.begin() as connection:
        await connection.exec_driver_sql("SELECT name FROM boats")
        yield int(await connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0)


class Heard(logging.Handler):
    """Tells when the first warning comes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.event.set()


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    handler = Heard()
    logging.getLogger("backstay.db.migrations").addHandler(handler)
    yield handler
    logging.getLogger("backstay.db.migrations").removeHandler(handler)


def seen(table: str) -> str:
    return (
        f"CREATE TABLE {table} AS SELECT current_setting('lock_timeout') AS lock, "
        "current_setting('statement_timeout') AS statement"
    )


async def limits(engine: AsyncEngine, table: str) -> tuple[str, str]:
    async with engine.connect() as connection:
        row = (
            await connection.execute(sa.select(sa.text("lock, statement")).select_from(sa.text(table)))
        ).one()
    return row[0], row[1]


@on_postgresql
class TestTimeouts:
    async def test_they_hold_in_each_migration_and_in_its_autocommit_blocks(
        self, engine: AsyncEngine, directory: Path, versions: Versions
    ) -> None:
        versions.write("one", None, f'op.execute("{seen("first")}")\nop.execute("SET lock_timeout = 0")')
        block = f'with op.get_context().autocommit_block():\n    op.execute("{seen("inside")}")'
        versions.write(
            "two", "one", f'op.execute("{seen("second")}")\n{block}\nop.execute("{seen("after")}")'
        )
        settings = MigrationSettings(
            lock_timeout=timedelta(seconds=3), statement_timeout=timedelta(microseconds=1)
        )
        settings = settings.model_copy(update={"statement_timeout": timedelta(minutes=4)})

        await Migrations(Base.metadata, directory, settings=settings).upgrade(engine)

        for table in ("first", "second", "inside", "after"):
            assert await limits(engine, table) == ("3s", "4min")

    async def test_a_migration_may_set_its_own(
        self, engine: AsyncEngine, migrations: Migrations, versions: Versions
    ) -> None:
        versions.write("one", None, f'op.execute("SET LOCAL lock_timeout = 0")\nop.execute("{seen("own")}")')

        await migrations.upgrade(engine)

        assert await limits(engine, "own") == ("0", "15min")

    @pytest.mark.parametrize(("set_to", "limit"), [(timedelta(0), "0"), (timedelta(microseconds=1), "1ms")])
    async def test_nothing_but_zero_means_no_limit(
        self, engine: AsyncEngine, set_to: timedelta, limit: str
    ) -> None:
        settings = MigrationSettings(lock_timeout=set_to)

        def look(connection: sa.Connection) -> Any:
            with limited(connection, settings):
                return connection.scalar(sa.text("SELECT current_setting('lock_timeout')"))

        async with engine.connect() as connection:
            assert await connection.run_sync(look) == limit

    @pytest.mark.parametrize("outcome", ["pass", "raise ValueError"])
    async def test_the_connection_has_its_own_again_afterwards(
        self, engine: AsyncEngine, migrations: Migrations, versions: Versions, outcome: str
    ) -> None:
        versions.write("one", None, f'op.execute("SET lock_timeout = 0")\n{outcome}')
        async with engine.connect() as connection:
            await connection.exec_driver_sql("SET lock_timeout = '7s'")
            await connection.commit()

            if outcome == "pass":
                await connection.run_sync(migrations.upgrade_on)
            else:
                with pytest.raises(MigrationFailedError):
                    await connection.run_sync(migrations.upgrade_on)

            assert await connection.scalar(sa.text("SELECT current_setting('lock_timeout')")) == "7s"
            assert await connection.scalar(sa.text("SELECT current_setting('statement_timeout')")) == "0"

    async def test_a_statement_that_runs_too_long_names_the_setting(
        self, engine: AsyncEngine, directory: Path, versions: Versions
    ) -> None:
        versions.write("one", None, 'op.execute("SELECT pg_sleep(60)")')
        settings = MigrationSettings(statement_timeout=timedelta(milliseconds=50))

        with pytest.raises(MigrationFailedError, match=r"one\.py, line 7, failed: .*timeout") as caught:
            await Migrations(Base.metadata, directory, settings=settings).upgrade(engine)

        assert caught.value.hint is not None
        assert "raise migrations.statement_timeout, or begin it with" in caught.value.hint


@on_postgresql
class TestBlocked:
    async def test_it_is_rolled_back_and_tried_again_until_the_lock_is_free(
        self, boats: AsyncEngine, impatient: Migrations, versions: Versions, heard: Heard
    ) -> None:
        versions.write("one", None, f'op.execute("CREATE TABLE kept (id INTEGER)")\n{ADD_COLUMN}')

        async with reading(boats) as process:
            upgrade = asyncio.create_task(impatient.upgrade(boats))
            await heard.event.wait()
            assert await tables(boats) == {"boats"}

        assert ids(await upgrade) == ["one"]
        assert await tables(boats) == {"boats", "kept"}
        assert heard.messages[0].startswith(
            "Migration one.py did not get its lock and was rolled back; attempt 2 of 4 follows; "
            f"process {process} (backstay, 0 s in its transaction) holds a lock on boats"
        )
        assert "SELECT" not in heard.messages[0]

    async def test_a_migration_that_is_taken_back_is_tried_again_too(
        self, boats: AsyncEngine, impatient: Migrations, versions: Versions, heard: Heard
    ) -> None:
        versions.write("one", None, ADD_COLUMN, DROP_COLUMN)
        versions.write_table("two", "one")
        await impatient.upgrade(boats)

        async with reading(boats):
            downgrade = asyncio.create_task(impatient.downgrade(boats, revision="-2"))
            await heard.event.wait()

        assert ids(await downgrade) == ["two", "one"]
        assert await impatient.current(boats) == ()

    async def test_after_the_last_attempt_it_says_who_was_in_the_way(
        self, boats: AsyncEngine, directory: Path, versions: Versions
    ) -> None:
        versions.write_table("one", None)
        versions.write("two", "one", ADD_COLUMN)
        settings = MigrationSettings(lock_timeout=timedelta(milliseconds=50), attempts=2)
        migrations = Migrations(Base.metadata, directory, settings=settings)

        async with reading(boats) as process:
            with pytest.raises(MigrationBlockedError, match=r"two\.py was tried 2 times") as caught:
                await migrations.upgrade(boats)

        assert [(one.pid, one.table) for one in caught.value.blockers] == [(process, "boats")]
        assert f"process {process} (backstay, " in str(caught.value)
        assert str(caught.value).endswith(" s in its transaction) holds a lock on boats.")
        assert caught.value.hint is not None
        assert "migrations.attempts" in caught.value.hint
        assert ids(await migrations.current(boats)) == ["one"]

    async def test_the_victim_of_a_deadlock_is_tried_again(
        self, engine: AsyncEngine, impatient: Migrations, versions: Versions, heard: Heard
    ) -> None:
        await run(engine, "CREATE SEQUENCE attempts")
        versions.write(
            "one",
            None,
            """
            op.execute(\"\"\"
                DO $$ BEGIN IF nextval('attempts') < 3 THEN
                RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END IF; END $$
            \"\"\")
            """,
        )

        assert ids(await impatient.upgrade(engine)) == ["one"]
        assert len(heard.messages) == 2


@on_postgresql
class TestAutocommitBlocks:
    async def test_a_concurrent_statement_waits_for_longer_because_nobody_waits_behind_it(
        self, boats: AsyncEngine, directory: Path, versions: Versions
    ) -> None:
        versions.write("one", None, INDEX.replace("unique=True, ", ""))
        settings = MigrationSettings(lock_timeout=timedelta(milliseconds=1))
        migrations = Migrations(Base.metadata, directory, settings=settings)
        waits = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX CONCURRENTLY%'"
        )

        async with boats.connect() as connection:
            await connection.exec_driver_sql("INSERT INTO boats (name) VALUES ('Eve')")
            upgrade = asyncio.create_task(migrations.upgrade(boats))
            while not await scalar(boats, waits):
                assert not upgrade.done()
            await run(boats, "INSERT INTO boats (name) VALUES ('Zoe')")
            await connection.rollback()

        assert ids(await upgrade) == ["one"]

    async def test_what_a_failed_concurrent_index_leaves_is_named_with_its_drop(
        self, boats: AsyncEngine, impatient: Migrations, versions: Versions
    ) -> None:
        await run(boats, "CREATE TABLE other (id INTEGER)")
        versions.write("one", None, INDEX)

        with pytest.raises(MigrationHalfDoneError, match=r"one\.py, line 8, failed: ") as caught:
            await impatient.upgrade(boats)

        assert caught.value.invalid_indexes == ("ix_boats_name",)
        assert str(caught.value).endswith("; it left the invalid index ix_boats_name on boats.")
        assert caught.value.hint is not None
        statement = caught.value.hint.removeprefix("Run in the database: ").partition(";")[0]
        assert statement == "DROP INDEX CONCURRENTLY ix_boats_name"
        async with boats.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql(statement)
            await connection.exec_driver_sql("DELETE FROM boats")
        assert ids(await impatient.upgrade(boats)) == ["one"]

    async def test_another_statement_gives_up_and_is_not_tried_again(
        self, boats: AsyncEngine, impatient: Migrations, versions: Versions, heard: Heard
    ) -> None:
        versions.write(
            "one",
            None,
            f"""
            op.execute("CREATE TABLE kept (id INTEGER)")
            with op.get_context().autocommit_block():
                {ADD_COLUMN}
            """,
        )

        async with reading(boats):
            with pytest.raises(MigrationHalfDoneError, match="lock timeout; what it had") as caught:
                await impatient.upgrade(boats)

        assert await tables(boats) == {"boats", "kept"}
        assert await impatient.current(boats) == ()
        assert heard.messages == []
        assert caught.value.hint is not None
        assert caught.value.hint.startswith("Take that part back by hand")

    async def test_an_own_lock_timeout_is_kept_for_concurrent_statements(
        self, boats: AsyncEngine, impatient: Migrations, versions: Versions
    ) -> None:
        versions.write(
            "one", None, INDEX.replace("    op.", "    op.execute(\"SET lock_timeout = '50ms'\")\n    op.")
        )

        async with boats.connect() as connection:
            await connection.exec_driver_sql("INSERT INTO boats (name) VALUES ('Eve')")
            with pytest.raises(MigrationHalfDoneError, match="lock timeout"):
                await impatient.upgrade(boats)
            await connection.rollback()


@on_both
async def test_a_failed_upgrade_leaves_the_schema_as_it_was_but_for_what_a_block_has_committed(
    engine: AsyncEngine, migrations: Migrations, versions: Versions, database_kind: str
) -> None:
    versions.write_table("one", None)
    versions.write(
        "two",
        "one",
        """
        op.execute("CREATE TABLE before (id INTEGER)")
        with op.get_context().autocommit_block():
            op.execute("CREATE TABLE inside (id INTEGER)")
        op.execute("CREATE TABLE after (id INTEGER)")
        raise ValueError("too late")
        """,
    )

    if database_kind == "postgresql":
        with pytest.raises(MigrationHalfDoneError, match="committed, because it has an autocommit block"):
            await migrations.upgrade(engine)
        assert await tables(engine) == {"t_one", "before", "inside"}
    else:
        with pytest.raises(MigrationFailedError) as caught:
            await migrations.upgrade(engine)
        assert caught.value.hint is not None
        assert caught.value.hint.startswith("It was rolled back and the ones before it were kept")
        assert await tables(engine) == {"t_one"}
    assert ids(await migrations.current(engine)) == ["one"]

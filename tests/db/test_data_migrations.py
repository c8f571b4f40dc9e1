"""Data migrations, through `DataMigrations`, on both databases; `kill -9` is in tests/proofs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent, indent
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backstay.db import Database
from backstay.db.migrations import (
    MigrationError,
    Migrations,
    MultipleHeadsError,
    NothingToMigrateError,
    UnknownRevisionError,
)
from backstay.db.migrations.data import (
    BrokenDataMigrationError,
    DataMigrationBlockedError,
    DataMigrationFailedError,
    DataMigrationRunningError,
    DataMigrations,
    DataMigrationTooEarlyError,
    DataMigrationUnfinishedError,
    DataProgress,
    UnknownDataMigrationError,
    _runner,
    _watching,
)
from backstay.db.types import UTCDateTime, Uuid
from backstay.errors import ConfigurationError, TransactionAbortedError
from backstay.events import Event, TransactionCommitted, subscribed
from backstay.settings import MigrationSettings

pytestmark = pytest.mark.databases("sqlite", "postgresql")

tables = sa.MetaData()
counters = sa.Table(
    "counters",
    tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("n", sa.Integer, sa.CheckConstraint("n < 100"), nullable=False, server_default="0"),
    sa.Column("label", sa.String(20), unique=True),
)

ADD_ONE = """
    rows = sa.table("counters", sa.column("id"), sa.column("n"))
    change = sa.update(rows).where(batch.holds(rows.c.id))
    return connection.execute(change.values(n=rows.c.n + 1)).rowcount
"""


@pytest.fixture(scope="module")
def metadata() -> sa.MetaData:
    return tables


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "migrations"


@pytest.fixture
def write(directory: Path) -> Callable[..., Path]:
    """Writes a data migration."""

    def write_one(
        body: str = ADD_ONE, *, name: str = "add_one", table: str = "counters", after: str | None = None
    ) -> Path:
        path = directory / "data" / f"20261125_0900_{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'"""Do {name}."""\n'
            "import sqlalchemy as sa\n"
            f"after = {after!r}\n"
            f"table = {table!r}\n"
            "def migrate(connection, batch):\n" + indent(dedent(body).strip(), "    ") + "\n"
        )
        return path

    return write_one


def migrations(directory: Path, *, batch_size: int = 10, **options: Any) -> DataMigrations:
    return DataMigrations(directory, batch_size=batch_size, rows_per_second=1_000_000, **options)


async def fill(database: Database, count: int) -> None:
    async with database.transaction() as session:
        for start in range(0, count, 500):
            numbers = range(start, min(start + 500, count))
            await session.execute(sa.insert(counters), [{"id": number * 3} for number in numbers])


async def values(database: Database) -> list[int]:
    async with database.reading() as session:
        return list(await session.scalars(sa.select(counters.c.n).order_by(counters.c.id)))


class TestRun:
    async def test_each_row_is_changed_once_and_progress_is_told_after_each_batch(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 25)
        write()
        told: list[DataProgress] = []

        done = await migrations(directory).run(database, "add_one", on_progress=told.append)

        assert await values(database) == [1] * 25
        assert [progress.rows_done for progress in told] == [0, 10, 20, 25]
        assert {progress.rows_total for progress in told} == {25}
        assert [progress.state for progress in told] == ["pending", "running", "running", "done"]
        assert (done.rows_changed, done.batches_done, done.share) == (25, 3, 1.0)

    async def test_one_that_is_done_is_not_run_again(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 25)
        write()
        await migrations(directory).run(database, "add_one")

        again = await migrations(directory).run(database, "add_one")

        assert await values(database) == [1] * 25
        assert again.state == "done"

    @pytest.mark.parametrize("count", [0, 10, 11])
    async def test_an_empty_table_and_a_full_last_batch(
        self, database: Database, directory: Path, write: Any, count: int
    ) -> None:
        await fill(database, count)
        write()

        done = await migrations(directory).run(database, "add_one")

        assert await values(database) == [1] * count
        assert (done.state, done.rows_total, done.share) == ("done", count, 1.0)

    async def test_rows_that_come_behind_the_marker_while_it_runs_are_met(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 20)
        write()
        started = asyncio.Event()
        run = asyncio.create_task(
            DataMigrations(directory, batch_size=10, rows_per_second=50).run(
                database, "add_one", on_progress=lambda _: started.set()
            )
        )

        await started.wait()
        async with database.transaction() as session:
            await session.execute(sa.insert(counters).values(id=1000))
        done = await run

        assert await values(database) == [1] * 21
        assert done.rows_total == 21

    async def test_each_batch_is_a_unit_of_work_that_names_what_it_wrote(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        """So a cache that takes part in the database's commits forgets those rows."""
        await fill(database, 20)
        write()
        seen: list[Event] = []

        with subscribed(seen.append):
            await migrations(directory).run(database, "add_one")

        committed = [event.writes for event in seen if isinstance(event, TransactionCommitted)]
        assert [writes for writes in committed if "counters" in writes] == [{"counters", "counters:*"}] * 2

    async def test_the_rate_is_kept(self, database: Database, directory: Path, write: Any) -> None:
        await fill(database, 40)
        write()
        paced = DataMigrations(directory, batch_size=10, rows_per_second=100)

        began = asyncio.get_running_loop().time()
        await paced.run(database, "add_one")

        assert 0.4 <= asyncio.get_running_loop().time() - began < 2

    async def test_the_order_is_that_of_their_dates(self, directory: Path, write: Any) -> None:
        write(name="second")
        (directory / "data" / "20261124_first.py").write_text('table = "counters"\n')

        assert [(one.name, one.message) for one in migrations(directory).files()] == [
            ("first", ""),
            ("second", "Do second"),
        ]


class TestFailure:
    async def test_a_batch_that_fails_is_rolled_back_and_the_next_run_goes_on_there(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 25)
        path = write(
            ADD_ONE.replace("return", "changed =")
            + "    assert batch.number < 2, 'no further'\n    return 10"
        )

        with pytest.raises(DataMigrationFailedError) as caught:
            await migrations(directory).run(database, "add_one")
        between = await values(database)
        write()
        await migrations(directory).run(database, "add_one")

        assert between == [1] * 10 + [0] * 15
        assert await values(database) == [1] * 25
        assert f"{path}, line 9, failed in the batch from key 30 to 57: AssertionError: no further" in str(
            caught.value
        )
        assert "backstay db data run add_one" in str(caught.value.hint)

    async def test_what_the_database_says_is_told_without_values_of_rows(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 25)
        write("return connection.execute(sa.text(\"UPDATE counters SET label = 'secret'\")).rowcount")

        with pytest.raises(DataMigrationFailedError, match=r"line 6, failed .*(?i:unique)") as caught:
            await migrations(directory).run(database, "add_one")
        assert "secret" not in str(caught.value)

    @pytest.mark.databases("postgresql")
    async def test_a_value_that_does_not_fit_is_not_quoted(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 5)
        write("return connection.execute(sa.text(\"UPDATE counters SET n = 's' || 'ecret'::int\")).rowcount")

        with pytest.raises(DataMigrationFailedError, match="a value does not fit") as caught:
            await migrations(directory).run(database, "add_one")
        assert "ecret" not in str(caught.value)

    @pytest.mark.databases("postgresql")
    async def test_a_constraint_that_fails_at_the_commit_is_told_too(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        async with database.transaction() as session:
            for statement in (
                "CREATE TABLE notes (id integer PRIMARY KEY)",
                "ALTER TABLE counters ADD FOREIGN KEY (n) REFERENCES notes DEFERRABLE INITIALLY DEFERRED",
                "INSERT INTO notes VALUES (0)",
            ):
                await session.execute(sa.text(statement))
        await fill(database, 5)
        write()

        with pytest.raises(DataMigrationFailedError, match="that was to be committed"):
            await migrations(directory).run(database, "add_one")

        assert await values(database) == [0] * 5

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            ("return None", "migrate returned None, not how many rows it changed"),
            ("connection.rollback()\nreturn 1", "migrate ended the transaction"),
            ("connection.commit()\nreturn 1", "migrate ended the transaction"),
        ],
    )
    async def test_a_function_that_breaks_the_rules_is_refused(
        self, database: Database, directory: Path, write: Any, body: str, told: str
    ) -> None:
        await fill(database, 5)
        write(body)

        with pytest.raises(MigrationError, match=told):
            await migrations(directory).run(database, "add_one")

    async def test_a_swallowed_error_of_the_database_commits_nothing(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 5)
        write(
            """
            connection.execute(sa.text("UPDATE counters SET n = n + 1"))
            try:
                connection.execute(sa.text("UPDATE counters SET n = 1000"))
            except sa.exc.IntegrityError:
                pass
            return 5
            """
        )

        with pytest.raises((TransactionAbortedError, sa.exc.DBAPIError)):
            await migrations(directory).run(database, "add_one")

        assert await values(database) == [0] * 5

    async def test_cancelled_in_a_batch_it_rolls_back_and_keeps_those_before(
        self, database: Database, directory: Path, write: Any, database_kind: str
    ) -> None:
        await fill(database, 30)
        slow = (
            "SELECT pg_sleep(30)"
            if database_kind == "postgresql"
            else "WITH RECURSIVE f(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM f) SELECT count(*) FROM f"
        )
        write(
            f"    if batch.number == 2:\n        connection.info['entered'].set()\n"
            f"        connection.execute(sa.text('{slow}'))\n" + ADD_ONE
        )
        entered = asyncio.Event()

        @sa.event.listens_for(database.engine.sync_engine, "begin")
        def remember(connection: sa.Connection) -> None:
            connection.info["entered"] = entered

        run = asyncio.create_task(migrations(directory).run(database, "add_one"))
        await asyncio.wait_for(entered.wait(), 10)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, 10)

        assert await values(database) == [1] * 10 + [0] * 20
        write()
        await migrations(directory).run(database, "add_one")
        assert await values(database) == [1] * 30

    @pytest.mark.databases("postgresql")
    async def test_a_row_that_somebody_has_locked_is_waited_for(
        self, database: Database, directory: Path, write: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        await fill(database, 20)
        write()
        quick = migrations(directory, lock_timeout=timedelta(milliseconds=20))

        async with database.transaction() as session:
            await session.execute(sa.update(counters).where(counters.c.id == 33).values(label="mine"))
            run = asyncio.create_task(quick.run(database, "add_one"))
            while "met a lock" not in caplog.text:  # noqa: ASYNC110 - a log wakes no task
                await asyncio.sleep(0.01)
        done = await run

        assert await values(database) == [1] * 20
        assert done.state == "done"

    @pytest.mark.databases("postgresql")
    async def test_it_gives_up_after_its_attempts(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 20)
        write()
        quick = migrations(directory, lock_timeout=timedelta(milliseconds=20), attempts=2)

        async with database.transaction() as session:
            await session.execute(sa.update(counters).where(counters.c.id == 33).values(label="mine"))
            with pytest.raises(DataMigrationBlockedError, match="had locked") as caught:
                await quick.run(database, "add_one")
            with pytest.raises(DataMigrationBlockedError):
                await quick.rehearse(database, "add_one")

        assert await values(database) == [1] * 10 + [0] * 10
        assert "backstay db data run add_one" in str(caught.value.hint)

    @pytest.mark.databases("postgresql")
    async def test_a_lost_connection_is_replaced(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 20)
        lose = """
        if batch.number == 2 and not hasattr(migrate, "was_here"):
            migrate.was_here = True
            connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        """
        write(dedent(lose) + dedent(ADD_ONE))

        await migrations(directory).run(database, "add_one")

        assert await values(database) == [1] * 20


class TestTwoAtOnce:
    @pytest.fixture
    async def other_database(self, database: Database) -> AsyncIterator[Database]:
        """What a second process has."""
        other = Database(database.settings)
        yield other
        await other.close()

    async def test_the_second_process_is_told(
        self, database: Database, other_database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 20)
        write()
        refused: list[BaseException] = []
        first = migrations(directory)

        async def meet(_: DataProgress) -> None:
            with pytest.raises(DataMigrationRunningError) as caught:
                await first.run(other_database, "add_one")
            refused.append(caught.value)

        meetings: list[asyncio.Task[None]] = []
        slow = DataMigrations(directory, batch_size=10, rows_per_second=40)
        await slow.run(
            database,
            "add_one",
            on_progress=lambda now: (
                meetings.append(asyncio.create_task(meet(now))) if now.batches_done == 1 else None
            ),
        )
        await asyncio.gather(*meetings)

        assert len(refused) == 1
        assert await values(database) == [1] * 20

    async def test_even_without_that_no_batch_is_changed_twice(
        self,
        database: Database,
        other_database: Database,
        directory: Path,
        write: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The marker's row is what it rests on; the lock that refuses the second process is a courtesy."""

        @asynccontextmanager
        async def beside_each_other(database: Database, name: str) -> Any:
            async with database.reading() as session:
                yield session

        monkeypatch.setattr(_runner, "running_alone", beside_each_other)
        await fill(database, 200)
        write()

        await asyncio.gather(
            migrations(directory).run(database, "add_one"),
            migrations(directory).run(other_database, "add_one"),
        )

        assert await values(database) == [1] * 200


class TestKeys:
    @pytest.mark.parametrize(
        ("columns", "make"),
        [
            (
                [sa.Column("a", Uuid(), primary_key=True)],
                lambda number: {"a": UUID(int=number * 7919 % 1000)},
            ),
            ([sa.Column("a", sa.Uuid(), primary_key=True)], lambda _: {"a": uuid4()}),
            (
                [sa.Column("a", sa.String(20), primary_key=True)],
                lambda number: {"a": f"k{number % 7}-é'{number}"},
            ),
            (
                [
                    sa.Column("b", sa.String(9), primary_key=True),
                    sa.Column("a", sa.Integer, primary_key=True),
                ],
                lambda number: {"a": number, "b": f"t{number % 4}"},
            ),
            (
                [
                    sa.Column("a", sa.Integer, primary_key=True),
                    sa.Column("b", UTCDateTime(), primary_key=True),
                ],
                lambda number: {
                    "a": number % 3,
                    "b": datetime(2026, 1, 1, 0, 0, 0, number, tzinfo=UTC),
                },
            ),
            (
                [sa.Column("a", sa.Date(), primary_key=True)],
                lambda number: {"a": datetime(2026, 1, 1, tzinfo=UTC).date() + timedelta(days=number)},
            ),
            (
                [sa.Column("a", sa.LargeBinary(), primary_key=True)],
                lambda number: {"a": bytes([number, 0, 255])},
            ),
            (
                [sa.Column("a", sa.Numeric(10, 3, asdecimal=False), primary_key=True)],
                lambda number: {"a": number / 8},
            ),
        ],
        ids=["our-uuid", "uuid", "text", "two-columns", "int-and-datetime", "date", "bytes", "decimal"],
    )
    async def test_every_kind_of_key_is_walked_through_in_its_order(
        self,
        database: Database,
        directory: Path,
        write: Any,
        columns: list[sa.Column[Any]],
        make: Callable[[int], dict[str, Any]],
    ) -> None:
        made = sa.Table(
            "keyed", sa.MetaData(), *(column._copy() for column in columns), sa.Column("n", sa.Integer)
        )
        async with database.transaction() as session:
            await (await session.connection()).run_sync(made.create)
            await session.execute(sa.insert(made), [{**make(number), "n": 0} for number in range(50)])
        names = [column.name for column in made.primary_key]
        listed = ", ".join(f"sa.column({name!r})" for name in names)
        write(
            f"""
            rows = sa.table("keyed", {listed}, sa.column("n"))
            keys = [rows.c[name] for name in {names!r}]
            change = sa.update(rows).where(batch.holds(*keys)).values(n=rows.c.n + 1)
            return connection.execute(change).rowcount
            """,
            table="keyed",
        )

        done = await migrations(directory, batch_size=7).run(database, "add_one")

        async with database.reading() as session:
            assert list(await session.scalars(sa.select(made.c.n))) == [1] * 50
        assert (done.rows_done, done.rows_changed, done.batches_done) == (50, 50, 8)

    async def test_a_models_own_column_and_textual_sql_do_as_well(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 25)
        write(
            """
            textual = "UPDATE counters SET n = n + 1 WHERE id BETWEEN :first_id AND :last_id"
            return connection.execute(sa.text(textual), batch.bounds).rowcount
            """
        )

        await migrations(directory).run(database, "add_one")

        assert await values(database) == [1] * 25

    async def test_half_a_key_is_refused(self, database: Database, directory: Path, write: Any) -> None:
        await fill(database, 1)
        write("batch.holds()\nreturn 1")

        with pytest.raises(DataMigrationFailedError, match="The primary key has the columns id"):
            await migrations(directory).run(database, "add_one")

    async def test_a_table_without_a_key_is_refused(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        async with database.transaction() as session:
            await session.execute(sa.text("CREATE TABLE heap (a integer)"))
        write(table="heap")

        with pytest.raises(BrokenDataMigrationError, match="has no primary key"):
            await migrations(directory).run(database, "add_one")

    @pytest.mark.databases("postgresql")
    async def test_a_table_of_another_schema(self, database: Database, directory: Path, write: Any) -> None:
        async with database.transaction() as session:
            for statement in (
                "CREATE SCHEMA sales",
                "CREATE TABLE sales.counters (id integer PRIMARY KEY, n integer)",
                "INSERT INTO sales.counters SELECT g, 0 FROM generate_series(1, 25) g",
            ):
                await session.execute(sa.text(statement))
        write(
            "rows = sa.table('counters', sa.column('id'), sa.column('n'), schema='sales')\n"
            "change = sa.update(rows).where(batch.holds(rows.c.id)).values(n=rows.c.n + 1)\n"
            "return connection.execute(change).rowcount",
            table="sales.counters",
        )

        done = await migrations(directory).run(database, "add_one")

        assert (done.rows_done, done.rows_changed) == (25, 25)

    @pytest.mark.databases("postgresql")
    async def test_a_batch_reads_its_own_rows_only_however_far_on(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 5000)
        async with database.transaction() as session:
            await session.execute(sa.text("ANALYZE counters"))
        write("return 0")
        statements: list[str] = []

        @sa.event.listens_for(database.engine.sync_engine, "before_cursor_execute")
        def note(connection: Any, cursor: Any, statement: str, *_: object) -> None:
            if "backstay_position" in statement:
                statements.append(statement)

        await migrations(directory, batch_size=100).run(database, "add_one")

        plan = statements[-1].replace("$1::INTEGER", "14000").replace("$2::INTEGER", "1")
        async with database.reading() as session:
            lines = "\n".join(await session.scalars(sa.text(f"EXPLAIN ANALYZE {plan}")))
        assert "Index" in lines
        assert "Seq Scan" not in lines
        assert all("OFFSET" not in statement for statement in statements)


class TestProgress:
    async def test_before_between_and_after(self, database: Database, directory: Path, write: Any) -> None:
        await fill(database, 25)
        write(ADD_ONE.replace("    rows", "    assert batch.number < 2\n    rows", 1))
        found = migrations(directory)

        before = await found.progress(database)
        with pytest.raises(DataMigrationFailedError):
            await found.run(database, "add_one")
        between = await found.progress(database)
        write()
        await found.run(database, "add_one")
        after = await found.progress(database)

        assert [(one.state, one.rows_done, one.rows_total) for one in (*before, *between, *after)] == [
            ("pending", 0, 25),
            ("running", 10, 25),
            ("done", 25, 25),
        ]

    async def test_a_table_that_is_not_made_yet_has_no_rows(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        write(table="nowhere")

        assert [
            (one.state, one.rows_total, one.share) for one in await migrations(directory).progress(database)
        ] == [("pending", 0, 0.0)]

    @pytest.mark.databases("postgresql")
    async def test_where_counting_takes_too_long_the_planner_is_asked(
        self, database: Database, directory: Path, write: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with database.transaction() as session:
            await session.execute(
                sa.text("INSERT INTO counters (id) SELECT g FROM generate_series(1, 200000) g")
            )
        async with database.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(sa.text("VACUUM ANALYZE counters"))
        monkeypatch.setattr(_watching, "_COUNT_MILLISECONDS", 5)
        write()

        rehearsal = await migrations(directory).rehearse(database, "add_one")

        assert not rehearsal.is_exact
        assert rehearsal.rows == pytest.approx(200_000, rel=0.02)


class TestRehearsal:
    async def test_it_runs_one_batch_and_keeps_nothing(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 25)
        write()

        rehearsal = await migrations(directory).rehearse(database, "add_one")

        assert (rehearsal.rows, rehearsal.is_exact, rehearsal.batches) == (25, True, 3)
        assert (rehearsal.batch_rows, rehearsal.batch_changed) == (10, 10)
        assert await values(database) == [0] * 25
        async with database.reading() as session:
            connection = await session.connection()
            names = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
        assert "backstay_data_migrations" not in names

    async def test_one_that_is_done_has_no_rows_left(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 25)
        write()
        await migrations(directory).run(database, "add_one")

        rehearsal = await migrations(directory).rehearse(database, "add_one")

        assert (rehearsal.rows, rehearsal.batches, rehearsal.batch_rows) == (0, 0, 0)

    async def test_an_error_is_told_as_in_a_run(
        self, database: Database, directory: Path, write: Any
    ) -> None:
        await fill(database, 25)
        write("return nothing")

        with pytest.raises(DataMigrationFailedError, match=r"line 6.*NameError"):
            await migrations(directory).rehearse(database, "add_one")


class TestSchema:
    """Data migrations between the schema's."""

    @pytest.fixture
    def history(self, directory: Path) -> Migrations:
        """Expand, then contract, which requires the data."""
        versions = directory / "versions"
        versions.mkdir(parents=True)
        (versions / "expand.py").write_text(
            'from alembic import op\nrevision = "expand"\ndown_revision = None\n'
            'def upgrade():\n    op.execute("ALTER TABLE counters ADD COLUMN m integer")\n'
            'def downgrade():\n    op.execute("ALTER TABLE counters DROP COLUMN m")\n'
        )
        (versions / "contract.py").write_text(
            'from alembic import op\nrevision = "contract"\ndown_revision = "expand"\n'
            'requires_data = ("fill_m",)\n'
            'def upgrade():\n    op.execute("CREATE INDEX counters_m ON counters (m)")\n'
            'def downgrade():\n    op.execute("DROP INDEX counters_m")\n'
        )
        return Migrations(sa.MetaData(), directory)

    @pytest.fixture
    def fill_m(self, write: Any) -> Path:
        path: Path = write(
            ADD_ONE.replace('"n"', '"m"').replace("n=rows.c.n + 1", "m=7"), name="fill_m", after="expand"
        )
        return path

    async def test_it_waits_for_its_schema_migration(
        self, database: Database, directory: Path, history: Migrations, fill_m: Path
    ) -> None:
        with pytest.raises(DataMigrationTooEarlyError) as caught:
            await migrations(directory).run(database, "fill_m")
        with pytest.raises(DataMigrationTooEarlyError):
            await migrations(directory).rehearse(database, "fill_m")

        assert "backstay db upgrade" in str(caught.value.hint)

    async def test_contract_is_refused_until_the_rows_are_filled(
        self, database: Database, directory: Path, history: Migrations, fill_m: Path
    ) -> None:
        await fill(database, 1001)

        with pytest.raises(DataMigrationUnfinishedError) as caught:
            await history.upgrade(database.engine)
        at = await history.current(database.engine)
        found = await migrations(directory).progress(database)
        await migrations(directory, batch_size=500).run(database, "fill_m")
        await history.upgrade(database.engine)

        assert "Run `backstay db data run fill_m`" in str(caught.value.hint)
        assert ([one.id for one in at], found[0].state) == (["expand"], "pending")
        assert [one.id for one in await history.current(database.engine)] == ["contract"]

    async def test_a_small_table_is_filled_on_the_way(
        self, database: Database, directory: Path, history: Migrations, fill_m: Path
    ) -> None:
        await fill(database, 5)

        await history.upgrade(database.engine)

        async with database.reading() as session:
            assert list(await session.scalars(sa.text("SELECT m FROM counters"))) == [7] * 5
        assert [one.state for one in await migrations(directory).progress(database)] == ["done"]

    async def test_taken_back_with_its_schema_it_runs_again(
        self, database: Database, directory: Path, history: Migrations, fill_m: Path
    ) -> None:
        await fill(database, 5)
        await history.upgrade(database.engine)

        await history.downgrade(database.engine, revision="base")
        await history.upgrade(database.engine)

        async with database.reading() as session:
            assert list(await session.scalars(sa.text("SELECT m FROM counters"))) == [7] * 5

    async def test_one_that_is_required_and_not_there(self, database: Database, history: Migrations) -> None:
        with pytest.raises(UnknownDataMigrationError, match="no data migration 'fill_m'"):
            await history.upgrade(database.engine)

    async def test_a_file_that_names_no_migration_of_the_schema(
        self, database: Database, directory: Path, history: Migrations, write: Any
    ) -> None:
        write(after="expnad")

        with pytest.raises(UnknownRevisionError, match="Did you mean 'expand'"):
            await migrations(directory).run(database, "add_one")

    async def test_autogenerate_leaves_the_markers_alone(
        self,
        database: Database,
        directory: Path,
        history: Migrations,
        fill_m: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        await history.upgrade(database.engine)

        # No model declares `counters`; that the markers' table is left alone needs no setting.
        settings = MigrationSettings(foreign_tables=("counters",))
        history = Migrations(sa.MetaData(), directory, settings=settings)
        with pytest.raises(NothingToMigrateError):
            await history.revision(database.engine, message="nothing")

        assert "backstay_data_migrations" not in caplog.text


@pytest.mark.databases("sqlite")
class TestFiles:
    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("table = ", "line 1, cannot run: SyntaxError"),
            ("x = 1", "does not say whose rows it changes"),
            ("\ntable = 'a' + 'b'", "line 2, cannot run: table is a text"),
            ("table = 'counters'\n1 / 0", "line 2, cannot run: ZeroDivisionError"),
            ("table = 'counters'", "has no plain function `def migrate"),
            ("table = 'counters'\nasync def migrate(c, b): ...", "has no plain function `def migrate"),
            ("table = 'nowhere'\ndef migrate(c, b): ...", "there is no table 'nowhere'"),
        ],
    )
    async def test_a_broken_file_is_told_with_its_line(
        self, database: Database, directory: Path, write: Any, content: str, told: str
    ) -> None:
        write().write_text(content)

        with pytest.raises(BrokenDataMigrationError, match=told) as caught:
            await migrations(directory).run(database, "add_one")
        assert caught.value.hint == "Mend it."

    async def test_an_unknown_name(self, database: Database, directory: Path, write: Any) -> None:
        write()

        with pytest.raises(UnknownDataMigrationError, match="Did you mean 'add_one'"):
            await migrations(directory).run(database, "ad_one")

    def test_two_of_one_name(self, directory: Path, write: Any) -> None:
        path = write()
        path.with_name("20261126_add_one.py").write_text(path.read_text())

        with pytest.raises(MigrationError, match="are both the data migration add_one"):
            migrations(directory).files()

    def test_without_a_folder_there_are_none(self, directory: Path) -> None:
        assert migrations(directory).files() == ()

    def test_a_new_one_builds_on_the_newest_schema(self, directory: Path) -> None:
        (directory / "versions").mkdir(parents=True)
        (directory / "versions" / "first.py").write_text('revision = "first"\n')

        path = migrations(directory).write("Fill the  label!", table="counters", metadata=tables)

        assert path.parent == directory / "data"
        assert path.name.endswith("_fill_the_label.py")
        [found] = migrations(directory).files()
        assert (found.name, found.after, found.table, found.message) == (
            "fill_the_label",
            "first",
            "counters",
            "Fill the label",
        )

    async def test_a_new_one_fails_until_it_says_what_changes(
        self, database: Database, directory: Path
    ) -> None:
        await fill(database, 1)
        migrations(directory).write("fill label", table="counters", metadata=tables)

        with pytest.raises(DataMigrationFailedError, match="column_to_fill"):
            await migrations(directory).run(database, "fill_label")

    @pytest.mark.parametrize(
        ("message", "table", "told"),
        [
            ("...", "counters", "needs a message"),
            ("2026", "counters", "needs a message"),
            ("fill", "countres", "No model has the table 'countres'. Did you mean 'counters'?"),
            ("add one", "counters", "There is a data migration add_one already"),
        ],
    )
    def test_what_cannot_be_written(
        self, directory: Path, write: Any, message: str, table: str, told: str
    ) -> None:
        write()

        with pytest.raises(MigrationError) as caught:
            migrations(directory).write(message, table=table, metadata=tables)
        assert told in str(caught.value)

    def test_a_table_without_a_key_gets_no_file(self, directory: Path) -> None:
        heap = sa.MetaData()
        sa.Table("heap", heap, sa.Column("a", sa.Integer))

        with pytest.raises(MigrationError, match="has no primary key"):
            migrations(directory).write("fill a", table="heap", metadata=heap)

    def test_two_heads_get_no_file(self, directory: Path) -> None:
        (directory / "versions").mkdir(parents=True)
        for revision in ("one", "two"):
            (directory / "versions" / f"{revision}.py").write_text(f'revision = "{revision}"\n')

        with pytest.raises(MultipleHeadsError):
            migrations(directory).write("fill", table="counters", metadata=tables)

    def test_a_key_of_two_columns_in_another_schema_is_written_out(self, directory: Path) -> None:
        metadata = sa.MetaData(schema="sales")
        sa.Table(
            "order-lines",
            metadata,
            sa.Column("order", sa.Integer, primary_key=True),
            sa.Column("line no", sa.Integer, primary_key=True),
        )

        path = migrations(directory).write("fill", table="sales.order-lines", metadata=metadata)

        written = path.read_text()
        assert 'sa.table("order-lines", sa.column("order"), sa.column("line no"), schema="sales")' in written
        assert 'batch.holds(rows.c.order, rows.c["line no"])' in written
        compile(written, str(path), "exec")

    @pytest.mark.parametrize("options", [{"batch_size": 0}, {"rows_per_second": 0}, {"attempts": 0}])
    def test_numbers_begin_at_one(self, directory: Path, options: dict[str, int]) -> None:
        with pytest.raises(ConfigurationError, match="begin at 1"):
            DataMigrations(directory, **options)  # type: ignore[arg-type]  # wrong on purpose

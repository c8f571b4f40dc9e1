"""What `Database` promises about transactions, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db import Database
from backstay.errors import ReadOnlySessionError, SessionEndedError, TransactionAbortedError
from backstay.events import Event, TransactionCommitted, TransactionRolledBack, subscribed
from backstay.transaction import Outcome, Transaction, after_commit, of

pytestmark = pytest.mark.databases("sqlite", "postgresql")

tables = MetaData()
counters = Table("counters", tables, Column("id", Integer, primary_key=True), Column("value", Integer))
children = Table(
    "children",
    tables,
    Column("id", Integer, primary_key=True),
    Column("counter_id", ForeignKey("counters.id", deferrable=True, initially="DEFERRED")),
)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


async def count(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(counters)) or 0


class TestEnds:
    async def test_the_end_of_the_block_commits(self, database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1))
        assert await count(database) == 1

    async def test_an_exception_rolls_back(self, database: Database) -> None:
        with pytest.raises(RuntimeError):
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))
                raise RuntimeError
        assert await count(database) == 0

    async def test_a_cancelled_block_rolls_back(self, database: Database) -> None:
        inside = asyncio.Event()

        async def work() -> None:
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await count(database) == 0

    async def test_a_session_is_of_no_use_after_its_block(self, database: Database) -> None:
        async with database.transaction() as session:
            pass
        with pytest.raises(SessionEndedError):
            await session.execute(text("SELECT 1"))

    async def test_tables_can_be_made_from_their_declaration(self, database: Database) -> None:
        made = Table("made", MetaData(), Column("id", Integer, primary_key=True))

        async with database.transaction() as session:
            connection = await session.connection()
            await connection.run_sync(made.create)
            await session.execute(insert(made).values(id=1))

        async with database.reading() as session:
            assert await session.scalar(select(func.count()).select_from(made)) == 1

    async def test_ddl_is_rolled_back_too(self, database: Database) -> None:
        with pytest.raises(RuntimeError):
            async with database.transaction() as session:
                await session.execute(text("CREATE TABLE half_done (id INTEGER)"))
                raise RuntimeError
        with pytest.raises(DBAPIError):
            async with database.reading() as session:
                await session.execute(text("SELECT * FROM half_done"))

    async def test_several_commits_of_one_session_are_several_transactions(self, database: Database) -> None:
        async with database.transaction() as session:
            first = of(session)
            await session.execute(insert(counters).values(id=1))
            await session.commit()
            assert of(session) is not first
            assert of(session).writes == set()
            await session.execute(insert(counters).values(id=2))
        assert await count(database) == 2


class TestFailedStatements:
    async def test_a_failed_statement_that_is_swallowed_makes_the_commit_fail(
        self, database: Database
    ) -> None:
        with pytest.raises(TransactionAbortedError, match="begin_nested"):
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))
                with pytest.raises(IntegrityError):
                    await session.execute(insert(counters).values(id=1))
        assert await count(database) == 0

    async def test_the_connection_that_refused_to_commit_is_clean(self, database: Database) -> None:
        """An exception there would otherwise hand the open transaction to the connection's next user."""
        with pytest.raises(TransactionAbortedError):
            async with database.transaction() as session:
                with pytest.raises(DBAPIError):
                    await session.execute(text("SELECT nonsense"))
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=2))
        assert await count(database) == 1

    async def test_it_holds_for_a_connection_without_a_session(self, database: Database) -> None:
        with pytest.raises(TransactionAbortedError):
            async with database.engine.begin() as connection:
                await connection.execute(insert(counters).values(id=1))
                with pytest.raises(IntegrityError):
                    await connection.execute(insert(counters).values(id=1))
        assert await count(database) == 0

    async def test_a_savepoint_contains_the_failure(self, database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1))
            with pytest.raises(IntegrityError):
                async with session.begin_nested():
                    await session.execute(insert(counters).values(id=1))
        assert await count(database) == 1


class TestAfterCommit:
    async def test_plain_and_async_calls_run_in_order_once_the_rows_are_visible(
        self, database: Database
    ) -> None:
        seen: list[object] = []

        async def look(name: str) -> None:
            seen.append((name, await count(database)))

        async with database.transaction() as session:
            after_commit(session, look, name="first")
            after_commit(session, seen.append, "second")
            await session.execute(insert(counters).values(id=1))
            assert seen == []

        assert seen == [("first", 1), "second"]

    async def test_calls_run_without_any_statement(self, database: Database) -> None:
        seen: list[str] = []
        async with database.transaction() as session:
            after_commit(session, seen.append, "called")
        assert seen == ["called"]

    @pytest.mark.parametrize("depth", [1, 2])
    async def test_calls_are_dropped_with_their_savepoint(self, database: Database, depth: int) -> None:
        seen: list[str] = []
        async with database.transaction() as session:
            after_commit(session, seen.append, "outer")
            with pytest.raises(RuntimeError):
                async with session.begin_nested():
                    if depth == 1:
                        after_commit(session, seen.append, "inner")
                    else:
                        async with session.begin_nested():
                            after_commit(session, seen.append, "innermost, released")
                    raise RuntimeError
            async with session.begin_nested():
                after_commit(session, seen.append, "released")
        assert seen == ["outer", "released"]

    async def test_a_later_transaction_of_the_session_does_not_repeat_them(self, database: Database) -> None:
        seen: list[str] = []
        async with database.transaction() as session:
            after_commit(session, seen.append, "once")
            await session.commit()
            await session.execute(insert(counters).values(id=1))
        assert seen == ["once"]


class Recorder:
    """A participant that writes down what it is told."""

    commit_bound = None

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.told: list[object] = []

    async def prepare(self, transaction: Transaction, tags: frozenset[str]) -> None:
        self.told.append(tags)
        if self.refuses:
            raise ConnectionError("no cache")

    async def settle(self, transaction: Transaction, outcome: Outcome) -> None:
        self.told.append(outcome)


MakeDatabase = Callable[..., Database]


@pytest.fixture
async def participant(database: Database) -> Recorder:
    recorder = Recorder()
    database.participants = (recorder,)
    return recorder


class TestParticipants:
    async def test_they_are_told_what_is_written_before_the_commit_and_how_it_ended(
        self, database: Database, participant: Recorder
    ) -> None:
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1))
            await session.execute(update(counters).values(value=2))
            assert participant.told == []
        assert participant.told == [frozenset({"counters", "counters:*"}), Outcome.COMMITTED]

    async def test_one_that_raises_rolls_back(self, database: Database, participant: Recorder) -> None:
        participant.refuses = True
        with pytest.raises(ConnectionError):
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))
        assert participant.told[-1] is Outcome.ROLLED_BACK
        assert await count(database) == 0

    async def test_a_commit_that_the_database_refuses_is_a_certain_rollback(
        self, database: Database, participant: Recorder
    ) -> None:
        with pytest.raises(IntegrityError):
            async with database.transaction() as session:
                await session.execute(insert(children).values(id=1, counter_id=4711))
        assert participant.told == [frozenset({"children", "children:*"}), Outcome.ROLLED_BACK]

    async def test_a_rollback_before_the_commit_tells_them_nothing(
        self, database: Database, participant: Recorder
    ) -> None:
        with pytest.raises(RuntimeError):
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))
                raise RuntimeError
        assert participant.told == []

    async def test_a_released_savepoint_is_no_commit(self, database: Database, participant: Recorder) -> None:
        async with database.transaction() as session:
            async with session.begin_nested():
                await session.execute(insert(counters).values(id=1))
            assert participant.told == []
        assert participant.told == [frozenset({"counters", "counters:*"}), Outcome.COMMITTED]


class TestWrites:
    @pytest.mark.parametrize(
        ("statement", "written"),
        [
            (insert(counters).values(id=7), {"counters", "counters:*"}),
            (update(counters).values(value=1), {"counters", "counters:*"}),
            (counters.delete(), {"counters", "counters:*"}),
            (select(counters), set()),
            (text("DELETE FROM counters"), {"*"}),
            (text("SELECT 1"), set()),
        ],
    )
    async def test_each_statement_names_the_tables_it_writes(
        self, database: Database, statement: Any, written: set[str]
    ) -> None:
        async with database.transaction() as session:
            await session.execute(statement)
            transaction = of(session)
            assert transaction.writes == written
            assert transaction.changed == bool(written)
            assert transaction.holds_connection
        assert not transaction.holds_connection


class TestReaders:
    async def test_a_reader_has_a_connection_of_its_own_and_sees_only_commits(
        self, database: Database
    ) -> None:
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1))
            async with of(session).reader() as reader:
                assert isinstance(reader, AsyncSession)
                assert await reader.scalar(select(func.count()).select_from(counters)) == 0

    async def test_a_session_beside_sees_what_the_transaction_wrote(self, database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1))
            async with of(session).beside() as beside:
                assert isinstance(beside, AsyncSession)
                assert await beside.scalar(select(func.count()).select_from(counters)) == 1
            await session.execute(insert(counters).values(id=2))
        assert await count(database) == 2

    async def test_no_reader_is_given_when_every_connection_is_taken(self, database: Database) -> None:
        most = database.settings.pool_size + database.settings.pool_overflow
        taken = [database.reading_session() for _ in range(most)]
        try:
            for reading in taken:
                await reading.connection()
            async with database.transaction() as session, of(session).reader() as reader:
                assert reader is None
        finally:
            for reading in taken:
                await reading.close()

    async def test_reading_refuses_to_write_in_each_way(self, database: Database) -> None:
        async with database.reading() as session:
            with pytest.raises(ReadOnlySessionError):
                await session.execute(insert(counters).values(id=1))
            with pytest.raises(DBAPIError):
                await session.execute(text("INSERT INTO counters (id) VALUES (1)"))
        assert await count(database) == 0

    async def test_reading_holds_no_snapshot(self, database: Database) -> None:
        async with database.reading() as session:
            assert await session.scalar(select(func.count()).select_from(counters)) == 0
            async with database.transaction() as writing:
                await writing.execute(insert(counters).values(id=1))
            assert await session.scalar(select(func.count()).select_from(counters)) == 1


class TestEvents:
    async def test_ends_are_told(self, database: Database) -> None:
        heard: list[Event] = []
        with subscribed(heard.append):
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))
            with pytest.raises(RuntimeError):
                async with database.transaction() as session:
                    await session.execute(insert(counters).values(id=2))
                    raise RuntimeError

        ends = [event for event in heard if isinstance(event, TransactionCommitted | TransactionRolledBack)]
        assert ends == [
            TransactionCommitted(writes=frozenset({"counters", "counters:*"})),
            TransactionRolledBack(is_certain=True),
        ]


class TestBlocking:
    async def test_the_same_database_serves_blocking_code(self, database: Database) -> None:
        seen: list[str] = []

        def work() -> None:
            with database.sync_transaction() as session:
                session.execute(insert(counters).values(id=1))
                after_commit(session, seen.append, "committed")
            with pytest.raises(RuntimeError), database.sync_transaction() as session:
                session.execute(insert(counters).values(id=2))
                raise RuntimeError
            with database.sync_reading() as session:
                assert session.scalar(select(func.count()).select_from(counters)) == 1

        await asyncio.to_thread(work)
        assert seen == ["committed"]

    async def test_an_async_call_cannot_follow_a_blocking_commit(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        def work() -> None:
            with database.sync_transaction() as session:
                session.execute(insert(counters).values(id=1))
                after_commit(session, count, database)

        await asyncio.to_thread(work)
        assert "give a plain one" in caplog.text


class TestConcurrentWrites:
    async def test_eight_read_modify_writes_on_one_row_all_count(self, database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1, value=0))

        async def add_one() -> None:
            async with database.transaction() as session:
                locked = select(counters.c.value).where(counters.c.id == 1).with_for_update()
                value = await session.scalar(locked) or 0
                await session.execute(update(counters).where(counters.c.id == 1).values(value=value + 1))

        await asyncio.gather(*(add_one() for _ in range(8)))

        async with database.reading() as session:
            assert await session.scalar(select(counters.c.value)) == 8

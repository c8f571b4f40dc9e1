"""What takes part in a commit: asked before it, told after it, and never left with an open transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import event, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from backstay.db import Database
from backstay.errors import UsageError
from backstay.settings import Settings
from backstay.transaction import Outcome, Transaction

pytestmark = pytest.mark.databases("sqlite", "postgresql")

tables = sa.MetaData()
counters = sa.Table("counters", tables, sa.Column("id", sa.Integer, primary_key=True))
library = sa.Table("backstay_things", tables, sa.Column("id", sa.Integer, primary_key=True))
WRITTEN = frozenset({"counters", "counters:*"})


@pytest.fixture(scope="module")
def metadata() -> sa.MetaData:
    return tables


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """One connection, so that its next user is the next one to come."""
    database = settings.database.model_copy(update={"pool_size": 1, "pool_overflow": 0})
    return settings.model_copy(update={"database": database})


class Recorder:
    """A participant that writes down what it is told, and does something when it is asked."""

    commit_bound: timedelta | None = None

    def __init__(self, act: Callable[[], Awaitable[object]] | None = None) -> None:
        self.act = act
        self.told: list[object] = []

    async def prepare(self, transaction: Transaction, tags: frozenset[str]) -> None:
        self.told.append(tags)
        if self.act is not None:
            await self.act()

    async def settle(self, transaction: Transaction, outcome: Outcome) -> None:
        self.told.append(outcome)


class Stopped(BaseException):
    """Not an Exception, as KeyboardInterrupt."""


async def ids(database: Database) -> list[int]:
    async with database.reading() as session:
        return list(await session.scalars(select(counters.c.id).order_by(counters.c.id)))


async def commit_by_the_session(session: AsyncSession) -> None:
    await session.commit()


async def commit_by_the_connection(session: AsyncSession) -> None:
    await (await session.connection()).commit()


Commit = Callable[[AsyncSession], Awaitable[None]]
each_commit = pytest.mark.parametrize("commit", [commit_by_the_session, commit_by_the_connection])


class TestRefusals:
    async def test_without_us_the_next_user_of_the_connection_commits_what_was_refused(
        self, database: Database, settings: Settings
    ) -> None:
        """The fault that the tests below are about: SQLAlchemy hands the open transaction back."""
        engine = create_async_engine(database.engine.url, pool_size=1, max_overflow=0)

        def refuse(connection: object) -> None:
            raise Stopped

        event.listen(engine.sync_engine, "commit", refuse)
        with pytest.raises(Stopped):
            async with engine.connect() as connection:
                await connection.execute(insert(counters).values(id=1))
                await connection.commit()
        event.remove(engine.sync_engine, "commit", refuse)
        async with engine.connect() as connection:
            await connection.execute(insert(counters).values(id=2))
            await connection.commit()
        await engine.dispose()

        assert await ids(database) == [1, 2]

    @each_commit
    @pytest.mark.parametrize("error", [ConnectionError, asyncio.CancelledError, Stopped])
    async def test_what_a_participant_refuses_is_never_committed(
        self, database: Database, commit: Commit, error: type[BaseException]
    ) -> None:
        async def refuse() -> None:
            raise error

        recorder = Recorder(refuse)
        database.participants = (recorder,)
        with pytest.raises(error):
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))
                await commit(session)

        assert recorder.told == [WRITTEN, Outcome.ROLLED_BACK]
        recorder.act = None
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=2))
        assert await ids(database) == [2]

    @each_commit
    async def test_a_commit_that_is_cancelled_while_they_are_asked_leaves_nothing_open(
        self, database: Database, commit: Commit
    ) -> None:
        """A session finishes what it began; a bare connection is stopped. Either way all is settled."""
        is_asked, may_answer = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            is_asked.set()
            await may_answer.wait()

        recorder = Recorder(wait)
        database.participants = (recorder,)

        async def write() -> None:
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))
                await commit(session)

        task = asyncio.create_task(write())
        await is_asked.wait()
        task.cancel()
        asyncio.get_running_loop().call_soon(may_answer.set)
        with pytest.raises(asyncio.CancelledError):
            await task

        is_committed = recorder.told[-1] is Outcome.COMMITTED
        assert is_committed == (commit is commit_by_the_session)
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=2))
        assert await ids(database) == ([1, 2] if is_committed else [2])

    async def test_a_connection_that_cannot_roll_back_is_dropped(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def refuse() -> None:
            raise Stopped

        def fail(connection: object) -> None:
            raise asyncio.CancelledError

        database.participants = (Recorder(refuse),)
        with pytest.raises(asyncio.CancelledError):
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))
                fairy = (await session.connection()).sync_connection
                assert fairy is not None
                with monkeypatch.context() as patched:
                    patched.setattr(fairy.connection, "rollback", lambda: fail(fairy), raising=False)
                    await session.commit()

        database.participants = ()
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=2))
        assert await ids(database) == [2]


class TestWhenTheyAreAsked:
    async def test_a_transaction_that_wrote_nothing_asks_nobody(self, database: Database) -> None:
        recorder = Recorder()
        database.participants = (recorder,)
        async with database.transaction() as session:
            await session.execute(select(counters))
        assert recorder.told == []

    async def test_the_tables_of_the_library_do_not_count(self, database: Database) -> None:
        recorder = Recorder()
        database.participants = (recorder,)
        async with database.transaction() as session:
            await session.execute(insert(library).values(id=1))
        assert recorder.told == []

    async def test_what_the_commit_itself_flushes_is_named(self, database: Database) -> None:
        recorder = Recorder()
        database.participants = (recorder,)

        def write_late(session: sa.orm.Session) -> None:
            session.execute(insert(counters).values(id=1))

        async with database.transaction() as session:
            await session.execute(select(counters))
            event.listen(session.sync_session, "before_commit", write_late)
        assert recorder.told == [WRITTEN, Outcome.COMMITTED]

    async def test_an_error_afterwards_is_only_logged(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(Recorder):
            async def settle(self, transaction: Transaction, outcome: Outcome) -> None:
                raise RuntimeError

        last = Recorder()
        database.participants = (Broken(), last)
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1))
        assert last.told == [WRITTEN, Outcome.COMMITTED]
        assert "failed to settle a committed transaction" in caplog.text


class TestCommitsOfTheConnection:
    """SQLAlchemy's session does not hear of them, and refuses to commit itself afterwards."""

    async def test_they_ask_too_and_the_end_counts_as_unknown(self, database: Database) -> None:
        recorder = Recorder()
        database.participants = (recorder,)
        session = database.session()
        connection = await session.connection()
        await connection.execute(insert(counters).values(id=1))
        assert recorder.told == []
        await connection.commit()
        assert recorder.told == [WRITTEN]
        await session.close()
        assert recorder.told == [WRITTEN, Outcome.UNKNOWN]
        assert await ids(database) == [1]

    async def test_a_rollback_after_one_does_not_hide_it(self, database: Database) -> None:
        recorder = Recorder()
        database.participants = (recorder,)
        session = database.session()
        connection = await session.connection()
        await connection.execute(insert(counters).values(id=1))
        await connection.commit()
        await connection.execute(insert(counters).values(id=2))
        await connection.rollback()
        await session.close()
        assert recorder.told == [WRITTEN, Outcome.UNKNOWN]
        assert await ids(database) == [1]

    async def test_a_rollback_alone_is_no_commit(self, database: Database) -> None:
        recorder = Recorder()
        database.participants = (recorder,)
        session = database.session()
        connection = await session.connection()
        await connection.execute(insert(counters).values(id=1))
        await connection.rollback()
        await connection.execute(insert(counters).values(id=2))
        await session.close()
        assert recorder.told == []
        assert await ids(database) == []


@pytest.mark.databases("postgresql")
class TestTheBoundOfTheCommit:
    async def test_the_server_ends_a_transaction_whose_commit_is_late(self, database: Database) -> None:
        """So that an intent may expire: nothing that it announced is committed afterwards."""

        async def wait_for_its_end() -> None:
            async with database.reading() as session:
                await session.execute(text("SELECT pg_advisory_lock(4711)"))

        recorder = Recorder(wait_for_its_end)
        recorder.commit_bound = timedelta(milliseconds=100)
        database.participants = (recorder,)
        with pytest.raises(DBAPIError):
            async with database.transaction() as session:
                await session.execute(text("SELECT pg_advisory_xact_lock(4711)"))
                await session.execute(insert(counters).values(id=1))

        assert recorder.told == [WRITTEN, Outcome.UNKNOWN]
        assert await ids(database) == []

    @pytest.mark.parametrize(
        ("bounds", "seen"), [([None], "0"), ([timedelta(seconds=5), None, timedelta(seconds=7)], "5s")]
    )
    async def test_it_is_set_late_and_for_that_transaction_alone(
        self, database: Database, bounds: list[timedelta | None], seen: str
    ) -> None:
        recorders = [Recorder() for _ in bounds]
        for recorder, bound in zip(recorders, bounds, strict=True):
            recorder.commit_bound = bound
        database.participants = tuple(recorders)
        shown: list[object] = []

        def show(connection: sa.Connection) -> None:
            shown.append(connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar())

        event.listen(database.engine.sync_engine, "commit", show)  # runs after the library's own
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1))
            await session.run_sync(lambda blocking: show(blocking.connection()))
        async with database.transaction() as session:
            await session.run_sync(lambda blocking: show(blocking.connection()))

        assert shown == ["0", seen, "0", "0"]

    async def test_a_server_that_can_bound_whole_transactions_is_told_to(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From 17 on. An older one refuses to hear of it, which shows that it was said."""
        async with database.engine.connect() as connection:
            dialect = connection.dialect
            version = await connection.scalar(text("SHOW server_version_num"))
        monkeypatch.setattr(dialect, "server_version_info", (17, 0))
        recorder = Recorder()
        recorder.commit_bound = timedelta(seconds=5)
        database.participants = (recorder,)

        async def write() -> None:
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))

        if int(version) >= 170000:
            await write()
        else:
            with pytest.raises(Exception, match="transaction_timeout"):
                await write()
            assert await ids(database) == []


class BlockingRecorder(Recorder):
    """One that blocking transactions can have."""

    refuses = False

    def prepare_blocking(self, transaction: Transaction, tags: frozenset[str]) -> None:
        self.told.append(tags)
        if self.refuses:
            raise ConnectionError

    def settle_blocking(self, transaction: Transaction, outcome: Outcome) -> None:
        self.told.append(outcome)
        raise RuntimeError("this is only logged")


class TestBlocking:
    async def test_a_participant_that_cannot_take_part_is_refused_before_anything_is_written(
        self, database: Database
    ) -> None:
        def work() -> None:
            with database.sync_transaction():
                raise AssertionError

        database.participants = (Recorder(),)
        with pytest.raises(UsageError, match="has no prepare_blocking"):
            await asyncio.to_thread(work)

    @pytest.mark.parametrize("refuses", [False, True])
    async def test_one_that_can_is_asked_and_told(
        self, database: Database, caplog: pytest.LogCaptureFixture, refuses: bool
    ) -> None:
        recorder = BlockingRecorder()
        recorder.refuses = refuses
        database.participants = (recorder,)

        def work() -> None:
            with database.sync_transaction() as session:
                session.execute(insert(counters).values(id=1))

        if refuses:
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(work)
        else:
            await asyncio.to_thread(work)

        assert recorder.told == [WRITTEN, Outcome.ROLLED_BACK if refuses else Outcome.COMMITTED]
        assert await ids(database) == ([] if refuses else [1])
        assert "failed to settle" in caplog.text

"""The outbox: what a transaction leaves is done after its commit, at least once, and never without it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError

from backstay.db import Database, Relay, outbox_table
from backstay.errors import ReadOnlySessionError, UsageError
from backstay.transaction import Outcome, Transaction, of

pytestmark = pytest.mark.databases("sqlite", "postgresql")

tables = sa.MetaData()
outbox_table.to_metadata(tables)
counters = sa.Table("counters", tables, sa.Column("id", sa.Integer, primary_key=True))


@pytest.fixture(scope="module")
def metadata() -> sa.MetaData:
    return tables


class Worker:
    """Does work by writing it down."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.error: Exception | None = None

    async def __call__(self, payloads: Sequence[str]) -> None:
        if self.error is not None:
            raise self.error
        self.done += payloads


async def leave(database: Database, *payloads: str, topic: str = "mail") -> None:
    async with database.transaction() as session:
        for payload in payloads:
            await of(session).note(topic, payload)


async def left(database: Database) -> list[str]:
    async with database.reading() as session:
        return list(await session.scalars(select(outbox_table.c.payload).order_by(outbox_table.c.id)))


def is_behind(relay: Relay) -> bool:
    return relay.is_behind  # a call: checkers take an attribute for unchanged


class TestNotes:
    async def test_they_are_committed_with_the_transaction(self, database: Database) -> None:
        async with database.transaction() as session:
            await of(session).note("mail", "one")
            await session.execute(insert(counters).values(id=1))
            await of(session).note("mail", "two")
            assert await left(database) == []
            assert of(session).writes == {"counters", "counters:*"}
        assert await left(database) == ["one", "two"]

    async def test_they_are_rolled_back_with_it(self, database: Database) -> None:
        with pytest.raises(RuntimeError):
            async with database.transaction() as session:
                await of(session).note("mail", "one")
                raise RuntimeError
        assert await left(database) == []

    async def test_a_note_alone_changes_nothing_that_a_reader_could_see(self, database: Database) -> None:
        async with database.transaction() as session:
            await of(session).note("mail", "one")
            assert not of(session).changed
        assert await left(database) == ["one"]

    @pytest.mark.parametrize("is_refused", [False, True])
    async def test_a_participant_leaves_one_while_it_prepares(
        self, database: Database, is_refused: bool
    ) -> None:
        class Participant:
            commit_bound = timedelta(seconds=5)

            async def prepare(self, transaction: Transaction, tags: frozenset[str]) -> None:
                await transaction.note("tags", ",".join(sorted(tags)))
                if is_refused:
                    raise ConnectionError

            async def settle(self, transaction: Transaction, outcome: Outcome) -> None: ...

        async def write() -> None:
            async with database.transaction() as session:
                await session.execute(insert(counters).values(id=1))

        database.participants = (Participant(),)
        if is_refused:
            with pytest.raises(ConnectionError):
                await write()
        else:
            await write()
        assert await left(database) == ([] if is_refused else ["counters,counters:*"])

    async def test_a_table_that_is_missing_refuses_the_commit(self, database: Database) -> None:
        async with database.transaction() as session:
            await session.run_sync(lambda blocking: outbox_table.drop(blocking.connection()))
        with pytest.raises(DBAPIError, match="backstay_outbox"):
            await leave(database, "one")

    async def test_blocking_transactions_leave_them_too(self, database: Database) -> None:
        def work() -> None:
            with database.sync_transaction() as session:
                of(session).note_blocking("mail", "one")

        await asyncio.to_thread(work)
        assert await left(database) == ["one"]

    async def test_each_kind_of_session_says_which_call_is_its_own(self, database: Database) -> None:
        def blocking() -> Transaction:
            with database.sync_transaction() as session:
                return of(session)

        with pytest.raises(UsageError, match="note_blocking"):
            await (await asyncio.to_thread(blocking)).note("mail", "one")
        async with database.reading() as session:
            with pytest.raises(ReadOnlySessionError):
                await of(session).note("mail", "one")
            with pytest.raises(ReadOnlySessionError):
                of(session).note_blocking("mail", "one")

    async def test_a_transaction_that_has_ended_takes_none(self, database: Database) -> None:
        async with database.transaction() as session:
            transaction = of(session)
            await session.execute(select(counters))
            await session.commit()
            with pytest.raises(UsageError, match="has ended"):
                await transaction.note("mail", "late")


class TestRelay:
    async def test_it_delivers_in_order_and_removes_what_is_done(self, database: Database) -> None:
        worker = Worker()
        relay = Relay(database, {"mail": worker}, batch=2)
        assert is_behind(relay)
        await leave(database, "one", "two", "three")
        assert await relay.outstanding()

        await relay.look()

        assert worker.done == ["one", "two", "three"]
        assert await left(database) == []
        assert not is_behind(relay)
        assert not await relay.outstanding()

    async def test_it_leaves_other_topics_alone(self, database: Database) -> None:
        worker = Worker()
        relay = Relay(database, {"mail": worker})
        await leave(database, "one", topic="other")

        await relay.look()

        assert worker.done == []
        assert await left(database) == ["one"]
        assert not is_behind(relay)

    async def test_work_that_fails_stays_and_holds_up_no_other_topic(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken, working = Worker(), Worker()
        broken.error = ConnectionError()
        relay = Relay(database, {"broken": broken, "working": working})
        await leave(database, "one", topic="broken")
        await leave(database, "two", topic="working")

        await relay.look()
        assert (working.done, await left(database)) == (["two"], ["one"])
        assert is_behind(relay)
        assert "'broken' in the outbox failed" in caplog.text

        broken.error = None
        await relay.look()
        assert broken.done == ["one"]
        assert not is_behind(relay)

    async def test_work_that_hangs_is_given_up_and_tried_again(self, database: Database) -> None:
        async def hang(payloads: Sequence[str]) -> None:
            await asyncio.Event().wait()

        await leave(database, "one")
        relay = Relay(database, {"mail": hang}, limit=timedelta(milliseconds=20))
        await relay.look()
        assert is_behind(relay)
        assert await left(database) == ["one"]

    async def test_who_cannot_look_counts_as_behind(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Others may commit what it does not hear of."""
        relay = Relay(database, {"mail": Worker()})
        await relay.look()
        assert not is_behind(relay)
        async with database.transaction() as session:
            await session.run_sync(lambda blocking: outbox_table.drop(blocking.connection()))

        await relay.look()

        assert is_behind(relay)
        assert "could not be looked at" in caplog.text

    async def test_who_left_work_itself_is_behind_until_it_has_looked(self, database: Database) -> None:
        relay = Relay(database, {"mail": Worker()})
        await relay.look()
        relay.expect()
        assert is_behind(relay)
        await relay.look()
        assert not is_behind(relay)

    async def test_what_is_expected_during_a_look_outlasts_it(self, database: Database) -> None:
        """The look may have read before the commit."""

        async def deliver(payloads: Sequence[str]) -> None:
            relay.expect()

        relay = Relay(database, {"mail": deliver})
        await leave(database, "one")
        await relay.look()
        assert is_behind(relay)
        await relay.look()
        assert not is_behind(relay)

    async def test_it_looks_again_and_again(self, database: Database) -> None:
        done: asyncio.Queue[str] = asyncio.Queue()

        async def deliver(payloads: Sequence[str]) -> None:
            for payload in payloads:
                done.put_nowait(payload)

        running = asyncio.create_task(
            Relay(database, {"mail": deliver}, interval=timedelta(milliseconds=1)).run()
        )
        try:
            for payload in ("one", "two"):
                await leave(database, payload)
                assert await done.get() == payload
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @pytest.mark.databases("postgresql")
    async def test_two_workers_do_not_do_the_same(self, database: Database) -> None:
        """The rows of the first are locked; the second takes the rest, and both count as behind meanwhile."""
        has_begun, may_end = asyncio.Event(), asyncio.Event()
        second = Worker()

        async def first(payloads: Sequence[str]) -> None:
            assert list(payloads) == ["one", "two"]
            has_begun.set()
            await may_end.wait()

        await leave(database, "one", "two", "three")
        slow = asyncio.create_task(Relay(database, {"mail": first}, batch=2).look())
        await has_begun.wait()
        other = Relay(database, {"mail": second}, batch=2)
        await other.look()
        assert second.done == ["three"]
        assert other.is_behind
        may_end.set()
        await slow
        assert await left(database) == []


DYING = """
import asyncio, os, signal, sys
from pydantic import SecretStr
from backstay.db import Database, Relay
from backstay.settings import DatabaseSettings

async def deliver(payloads):
    print(*payloads, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(Relay(Database(DatabaseSettings(url=SecretStr(sys.argv[1]))), {"mail": deliver}).look())
"""


async def test_a_worker_that_is_killed_at_its_work_leaves_it_to_the_next(
    database: Database, database_url: str
) -> None:
    """At least once: here twice, since it died between doing it and saying so."""
    await leave(database, "one", "two")

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DYING, database_url, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert printed.split() == [b"one", b"two"]
    assert await left(database) == ["one", "two"]

    if database.is_postgresql:  # wait until the server has noticed: until then the rows are locked
        async with database.transaction() as session:
            await session.execute(select(outbox_table).with_for_update())
    worker = Worker()
    await Relay(database, {"mail": worker}).look()
    assert worker.done == ["one", "two"]
    assert await left(database) == []


DYING_BEFORE_THE_COMMIT = """
import asyncio, os, signal, sys
from pydantic import SecretStr
from backstay.db import Database
from backstay.settings import DatabaseSettings
from backstay.transaction import of

async def main():
    async with Database(DatabaseSettings(url=SecretStr(sys.argv[1]))).transaction() as session:
        await of(session).note("mail", "never")
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_work_of_a_transaction_that_died_is_never_done(database: Database, database_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DYING_BEFORE_THE_COMMIT, database_url
    )
    assert await process.wait() == -signal.SIGKILL

    worker = Worker()
    await Relay(database, {"mail": worker}).look()
    assert worker.done == []

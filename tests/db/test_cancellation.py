"""A cancelled call has ended in the database when its cancellation arrives."""

import asyncio
from time import monotonic

import anyio
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, text
from sqlalchemy.pool import QueuePool

from backstay.db import Database
from backstay.errors import UsageError
from backstay.transaction import Outcome, Transaction, after_commit

pytestmark = pytest.mark.databases("sqlite", "postgresql")

tables = MetaData()
rows = Table("cancelled_rows", tables, Column("id", Integer, primary_key=True))

ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


async def count(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(rows)) or 0


async def test_a_cancelled_statement_has_stopped_and_holds_no_lock(
    database: Database, database_kind: str
) -> None:
    began = monotonic()
    with anyio.move_on_after(0.1) as scope:
        async with database.transaction() as session:
            await session.execute(insert(rows).values(id=1))
            await session.execute(text(ENDLESS[database_kind]))
    async with database.transaction() as session:
        await session.execute(insert(rows).values(id=2))

    assert scope.cancelled_caught
    assert monotonic() - began < 2
    assert await count(database) == 1


async def test_a_cancelled_reader_gives_its_connection_back(database: Database, database_kind: str) -> None:
    with anyio.move_on_after(0.05):
        async with database.reading() as session:
            await session.execute(text(ENDLESS[database_kind]))

    pool = database.read_engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0
    assert await count(database) == 0


async def test_a_writer_that_is_cancelled_while_it_waits_for_the_lock_does_not_take_it(
    database: Database,
) -> None:
    holding, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.transaction() as session:
            await session.execute(insert(rows).values(id=1))
            holding.set()
            await release.wait()

    async def wait() -> None:
        async with database.transaction() as session:
            await session.execute(insert(rows).values(id=1))

    async with asyncio.TaskGroup() as group:
        group.create_task(hold())
        await holding.wait()
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.sleep(0.05)
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with database.transaction() as session:
        await session.execute(insert(rows).values(id=2))

    assert await count(database) == 2


async def test_a_commit_is_not_cancelled_and_what_follows_it_runs(database: Database) -> None:
    committed, release = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    async def follow() -> None:
        committed.set()
        await release.wait()
        ran.append("after the commit")

    async def work() -> None:
        async with database.transaction() as session:
            after_commit(session, follow)
            await session.execute(insert(rows).values(id=1))

    task = asyncio.create_task(work())
    await committed.wait()
    task.cancel()
    task.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ran == ["after the commit"]
    assert await count(database) == 1


async def test_a_blocking_transaction_refuses_what_only_async_code_can_keep(database: Database) -> None:
    class Participant:
        commit_bound = None

        async def prepare(self, transaction: Transaction, tags: frozenset[str]) -> None: ...

        async def settle(self, transaction: Transaction, outcome: Outcome) -> None: ...

    database.participants = (Participant(),)

    def work() -> None:
        with database.sync_transaction() as session:
            session.execute(insert(rows).values(id=1))

    with pytest.raises(UsageError, match=r"use `transaction\(\)`"):
        await asyncio.to_thread(work)
    assert await count(database) == 0

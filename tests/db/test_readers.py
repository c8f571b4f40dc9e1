"""Sessions of their own for those who load on somebody's behalf: connected, or not given at all."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db import Database
from backstay.errors import ReadOnlySessionError, UsageError
from backstay.settings import Settings
from backstay.transaction import Carrier, Transaction, after_commit, of

pytestmark = pytest.mark.databases("sqlite", "postgresql")

tables = sa.MetaData()
counters = sa.Table("counters", tables, sa.Column("id", sa.Integer, primary_key=True))


@pytest.fixture(scope="module")
def metadata() -> sa.MetaData:
    return tables


@pytest.fixture
def settings(settings: Settings) -> Settings:
    database = settings.database.model_copy(update={"pool_size": 2, "pool_overflow": 1})
    return settings.model_copy(update={"database": database})


def session_of(carrier: Carrier | None) -> AsyncSession:
    assert isinstance(carrier, AsyncSession)
    return carrier


async def count(carrier: Carrier | None) -> int:
    return await session_of(carrier).scalar(select(func.count()).select_from(counters)) or 0


class TestReaders:
    async def test_without_us_those_who_look_first_all_see_room_and_wait(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The fault that the next test is about; where each holds a connection too, they wait for ever."""
        pool: Any = database.read_engine.sync_engine.pool
        monkeypatch.setattr(pool, "_timeout", 0.05)

        async def look_and_take(stack: AsyncExitStack) -> None:
            if pool.checkedout() < 3:
                await (await stack.enter_async_context(database.reading())).connection()

        async with AsyncExitStack() as stack:
            taken = await asyncio.gather(*(look_and_take(stack) for _ in range(8)), return_exceptions=True)
        assert [type(error) for error in taken if error is not None] == [PoolTimeoutError] * 5

    async def test_more_who_ask_at_once_than_connections_are_told_so_and_nobody_waits(
        self, database: Database
    ) -> None:
        """The pool decides as it hands one out: who looks first and asks then may meet another one."""
        async with AsyncExitStack() as stack, database.reading() as session:
            transaction = of(session)
            readers = await asyncio.gather(
                *(stack.enter_async_context(transaction.reader()) for _ in range(8))
            )
            given = [reader for reader in readers if reader is not None]
            assert len(given) == 3
            assert await asyncio.gather(*map(count, given)) == [0, 0, 0]
        assert database.pools()[1].checked_out == 0

    async def test_a_connection_that_is_given_back_is_given_again(self, database: Database) -> None:
        async with database.reading() as session:
            for _ in range(5):
                async with of(session).reader() as first, of(session).reader() as second:
                    assert await count(first) == await count(second) == 0

    async def test_who_waits_in_the_pool_for_one_still_gets_it(self, database: Database) -> None:
        async with AsyncExitStack() as stack:
            held = [await stack.enter_async_context(database.reading()) for _ in range(3)]
            for session in held:
                await session.connection()
            waiting = asyncio.create_task(database.check())
            async with of(held[0]).reader() as reader:
                assert reader is None
        await waiting

    async def test_it_is_connected_and_sees_each_commit(self, database: Database) -> None:
        async with database.reading() as session, of(session).reader() as reader:
            assert session_of(reader).in_transaction()
            assert not of(session).holds_connection
            assert await count(reader) == 0
            async with database.transaction() as writing:
                await writing.execute(insert(counters).values(id=1))
            assert await count(reader) == 1

    async def test_who_asks_may_be_cancelled(self, database: Database) -> None:
        async with database.reading() as session:

            async def ask() -> None:
                async with of(session).reader():
                    raise AssertionError

            task = asyncio.create_task(ask())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert database.pools()[1].checked_out == 0


class TestBeside:
    async def test_it_shares_the_connection_and_not_the_rows(self, database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1))
            async with of(session).beside() as beside:
                assert await count(beside) == 1
                assert of(beside) is of(session)
                with pytest.raises(ReadOnlySessionError):
                    await session_of(beside).execute(insert(counters).values(id=2))
            assert of(session).holds_connection
            assert await count(session) == 1

    async def test_beside_a_reading_session_too(self, database: Database) -> None:
        async with database.reading() as session:
            async with of(session).beside() as beside:
                assert await count(beside) == 0
                assert of(beside) is of(session)
            assert of(session).holds_connection
            assert await count(session) == 0

    async def test_what_fails_there_fails_the_transaction(self, database: Database) -> None:
        """It is the same one: nothing may be committed that came after it."""
        async with database.transaction() as session:
            await session.execute(insert(counters).values(id=1))
            async with of(session).beside() as beside:
                with pytest.raises(DBAPIError):
                    await session_of(beside).execute(text("SELECT nonsense"))
            await session.rollback()
        async with database.reading() as session:
            assert await count(session) == 0


async def test_a_blocking_session_has_none_beside_it(database: Database) -> None:
    def work() -> Transaction:
        with database.sync_transaction() as session:
            return of(session)

    transaction = await asyncio.to_thread(work)
    with pytest.raises(UsageError, match="blocking session"):
        async with transaction.beside():
            pass


async def test_a_reading_session_has_no_commit_to_wait_for(database: Database) -> None:
    async with database.reading() as session:
        transaction = of(session)
        assert (transaction.writes, transaction.changed, transaction.isolated) == (set(), False, False)
        with pytest.raises(ReadOnlySessionError, match="no commit follows"):
            after_commit(session, print)

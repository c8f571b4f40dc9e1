"""A request takes a place at its first checkout and keeps it: nested checkouts cannot wait for each other."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from backstay.db import Database, as_app_error
from backstay.db._admission import Admission, NoPlaceError
from backstay.deadline import Call, deadline, enter_call, leave_call
from backstay.errors import UnavailableError
from backstay.events import ConnectionAwaited
from backstay.settings import DatabaseSettings, Settings


class TestTurns:
    async def test_who_comes_first_is_served_first(self) -> None:
        admission, served = Admission(1), list[int]()
        await admission.enter(at_most=1)

        async def come(number: int) -> None:
            await admission.enter(at_most=1)
            served.append(number)
            admission.leave(seconds=0)

        tasks = [asyncio.create_task(come(number)) for number in range(4)]
        await asyncio.sleep(0)
        admission.leave(seconds=0)
        await asyncio.gather(*tasks)

        assert served == [0, 1, 2, 3]
        assert admission.is_open

    async def test_who_waits_in_vain_is_told_and_takes_no_place(self) -> None:
        admission = Admission(1)
        await admission.enter(at_most=1)

        with pytest.raises(NoPlaceError):
            await admission.enter(at_most=0.01)
        admission.leave(seconds=0)

        assert admission.is_open

    @pytest.mark.parametrize("comes", ["before", "together", "later"])
    async def test_who_is_cancelled_passes_the_place_on(self, comes: str) -> None:
        admission = Admission(1)
        await admission.enter(at_most=1)
        cancelled = asyncio.create_task(admission.enter(at_most=1))
        next_one = asyncio.create_task(admission.enter(at_most=1))
        await asyncio.sleep(0)

        if comes == "before":
            admission.leave(seconds=0)
        cancelled.cancel()
        if comes == "together":
            admission.leave(seconds=0)
        await asyncio.wait([cancelled])
        if comes == "later":
            admission.leave(seconds=0)
        await next_one
        admission.leave(seconds=0)

        assert cancelled.cancelled()
        assert admission.is_open

    async def test_waiting_that_is_hopeless_is_not_begun(self) -> None:
        admission = Admission(2)
        for _ in range(60):  # places are kept for 10 s, as far as it can tell
            await admission.enter(at_most=1)
            admission.leave(seconds=10)
        for _ in range(2):
            await admission.enter(at_most=1)
        began = time.monotonic()

        with pytest.raises(NoPlaceError) as refusal:
            await admission.enter(at_most=2)

        assert time.monotonic() - began < 0.5
        assert refusal.value.retry_after_seconds == 5  # two places: one is free after half of that time

    async def test_what_it_has_learned_it_forgets_when_places_are_given_back_sooner(self) -> None:
        admission = Admission(1)
        for seconds in [10] * 60 + [0.001] * 60:
            await admission.enter(at_most=1)
            admission.leave(seconds=seconds)
        await admission.enter(at_most=1)
        waiting = asyncio.create_task(admission.enter(at_most=1))
        await asyncio.sleep(0)
        admission.leave(seconds=0)

        await waiting


def test_the_answer_says_when_to_come_again() -> None:
    answer = as_app_error(NoPlaceError(4.2))

    assert isinstance(answer, UnavailableError)
    assert answer.headers == {"Retry-After": "5"}
    assert NoPlaceError(0).retry_after_seconds == 1
    assert NoPlaceError(9999).retry_after_seconds == 30


_NO_TABLES = MetaData()


@pytest.fixture
def metadata() -> MetaData:
    return _NO_TABLES


@pytest.fixture
def settings(settings: Settings) -> Settings:
    narrow = {"pool_size": 2, "pool_overflow": 1, "pool_timeout": timedelta(milliseconds=300)}
    return settings.model_copy(update={"database": settings.database.model_copy(update=narrow)})


@contextmanager
def a_call(database: Database, *, seconds: float = 60) -> Iterator[Call]:
    """As a request with a unit of work is."""
    call = Call(time.monotonic() + seconds)
    token = enter_call(call)
    database.keep_place()
    try:
        yield call
    finally:
        database.let_place_go()
        leave_call(token)


async def ask(session: Any) -> None:
    await session.execute(text("SELECT 1"))


@pytest.mark.databases("sqlite", "postgresql")
class TestRequests:
    """Three connections in each pool, and so two places."""

    async def test_a_nested_checkout_finds_the_connection_that_is_kept_for_it(
        self, database: Database
    ) -> None:
        are_inside = asyncio.Barrier(2)

        async def nest() -> None:
            with a_call(database):
                async with database.reading() as outer:
                    await ask(outer)
                    await are_inside.wait()
                    async with database.reading() as inner:
                        await ask(inner)

        await asyncio.gather(*(nest() for _ in range(2)))

    async def test_a_third_request_waits_for_its_place_and_holds_nothing(
        self, database: Database, events: Any
    ) -> None:
        holding, release = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            with a_call(database):
                async with database.reading() as session:
                    await ask(session)
                    holding.set()
                    await release.wait()

        async def come() -> None:
            with a_call(database):
                async with database.reading() as session:
                    await ask(session)

        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(hold())
            await holding.wait()
            third = group.create_task(come())
            await asyncio.sleep(0.02)
            assert database.pools()[1].checked_out == 2
            assert not third.done()
            release.set()

        assert [awaited.pool for awaited in events.of(ConnectionAwaited)] == ["reading"]

    async def test_a_place_is_kept_between_connections_and_given_back_with_the_unit(
        self, database: Database
    ) -> None:
        pool: Any = database.read_engine.pool
        with a_call(database):
            for _ in range(3):
                async with database.reading() as session:
                    await ask(session)
            assert pool._admission._free == 1
        assert pool._admission._free == 2

    async def test_after_its_unit_a_request_has_a_place_only_with_a_connection(
        self, database: Database
    ) -> None:
        pool: Any = database.read_engine.pool
        with a_call(database):
            database.let_place_go()
            async with database.reading() as session:
                await ask(session)
                assert pool._admission._free == 1
            assert pool._admission._free == 2

    async def test_tasks_of_one_request_have_one_place(self, database: Database) -> None:
        pool: Any = database.read_engine.pool

        async def read() -> None:
            async with database.reading() as session:
                await ask(session)

        with a_call(database):
            async with asyncio.TaskGroup() as group:
                for _ in range(6):
                    group.create_task(read())
            assert pool._admission._free == 1
        assert pool._admission._free == 2

    async def test_writers_cannot_starve_readers(self, database: Database) -> None:
        for _ in range(2):
            await database.engine.pool._admission.enter(at_most=1)  # type: ignore[attr-defined]

        with a_call(database):
            async with database.reading() as session:
                await ask(session)

    async def test_code_outside_of_requests_needs_no_place(self, database: Database) -> None:
        for _ in range(2):
            await database.read_engine.pool._admission.enter(at_most=1)  # type: ignore[attr-defined]

        async with database.reading() as session:
            await ask(session)

    async def test_a_request_whose_time_is_over_does_not_wait(self, database: Database) -> None:
        for _ in range(2):
            await database.read_engine.pool._admission.enter(at_most=1)  # type: ignore[attr-defined]
        began = time.monotonic()

        with a_call(database, seconds=0.05):
            async with database.reading() as session:
                with pytest.raises(PoolTimeoutError):
                    await ask(session)

        assert time.monotonic() - began < 0.25

    async def test_a_pool_that_was_emptied_has_its_places(self, database: Database) -> None:
        with a_call(database, seconds=0.05):
            await database.read_engine.dispose()
        pool: Any = database.read_engine.pool

        with a_call(database):
            async with database.reading() as session:
                await ask(session)
                assert pool._admission._free == 1
        assert pool._timeout == 0.3


async def test_a_connection_that_cannot_be_opened_gives_the_place_back() -> None:
    database = Database(DatabaseSettings(url=SecretStr("postgresql://nobody@127.0.0.1:1/none"), pool_size=1))
    pool: Any = database.read_engine.pool
    before = pool._admission._free

    with a_call(database):
        async with database.reading() as session:
            with pytest.raises(DBAPIError):
                await ask(session)
    await database.close()

    assert pool._admission._free == before


@pytest.mark.databases("sqlite")
async def test_blocking_code_waits_for_a_connection_no_longer_than_the_deadline(database: Database) -> None:
    def take_all() -> float:
        taken = [database.sync_engine.connect() for _ in range(3)]
        began = time.monotonic()
        try:
            with deadline(timedelta(milliseconds=50)), pytest.raises(PoolTimeoutError):
                database.sync_engine.connect()
        finally:
            for connection in taken:
                connection.close()
        return time.monotonic() - began

    assert await asyncio.to_thread(take_all) < 0.25

"""Loads and the pool of connections: whoever holds a connection never waits for one who waits for it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import MetaData, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backstay.cache._memory import MemoryStore
from backstay.cache.cache import Cache
from backstay.cache.cached import cached
from backstay.db import Database
from backstay.db.sources import row
from backstay.deadline import deadline
from backstay.errors import DeadlineExceededError
from backstay.settings import Settings
from backstay.transaction import source_of

PATIENT = timedelta(seconds=30)


class Tables(DeclarativeBase):
    metadata = MetaData()


class Thing(Tables):
    __tablename__ = "loaded_things"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


THINGS = source_of(Thing.__table__)  # type: ignore[arg-type]  # it is a Table


@cached("thing:{thing_id}", ttl="1h", reads=[row(Thing, "thing_id")])
async def get_thing(session: AsyncSession, thing_id: int) -> str | None:
    return await session.scalar(select(Thing.name).where(Thing.id == thing_id))


@cached("even:{number}", ttl="1h", reads=[THINGS])
async def is_even(session: AsyncSession, number: int) -> bool:
    await session.scalars(select(Thing.id))
    return number == 0 or await is_odd(session, number - 1)


@cached("odd:{number}", ttl="1h", reads=[THINGS])
async def is_odd(session: AsyncSession, number: int) -> bool:
    await session.scalars(select(Thing.id))
    return number != 0 and await is_even(session, number - 1)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Tables.metadata


@pytest.fixture(params=[1, 5])
async def database(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Database]:
    pools = {"pool_size": request.param, "pool_overflow": 0, "pool_timeout": PATIENT}
    cache = Cache(MemoryStore(max_bytes=1_000_000), audit_rate=0)
    database = Database(settings.database.model_copy(update=pools), participants=(cache,))
    async with database.transaction() as session:
        session.add_all(Thing(id=number, name=f"thing {number}") for number in range(5))
    yield database
    await database.close()


@pytest.mark.databases("sqlite", "postgresql")
class TestSmallPools:
    async def test_twenty_callers_half_of_them_with_a_connection_all_get_their_value(
        self, database: Database
    ) -> None:
        async def ask(number: int) -> str | None:
            async with database.reading() as session:
                if number % 2:
                    await session.scalars(select(Thing.id))  # now it holds a connection
                return await get_thing(session, number % 3)

        async with asyncio.timeout(20):
            values = await asyncio.gather(*(ask(number) for number in range(20)))
        assert values == [f"thing {number % 3}" for number in range(20)]

    async def test_functions_that_call_each_other_end(self, database: Database) -> None:
        async def ask(number: int) -> bool:
            async with database.reading() as session:
                return await (is_even if number % 2 else is_odd)(session, 6)

        async with asyncio.timeout(20):
            values = await asyncio.gather(*(ask(number) for number in range(10)))
        assert values == [bool(number % 2) for number in range(10)]

    async def test_writers_that_read_through_the_cache_end(self, database: Database) -> None:
        async def change(number: int) -> None:
            async with database.transaction() as session:
                await get_thing(session, number % 3)
                (await session.get_one(Thing, number % 5)).name = f"thing {number}"
                await get_thing(session, number % 3)

        async with asyncio.timeout(20):
            await asyncio.gather(*(change(number) for number in range(10)))


async def test_who_waits_for_anothers_load_waits_until_its_own_deadline(database: Database) -> None:
    begun = asyncio.Event()

    @cached("endless", ttl="1h")
    async def load(session: AsyncSession) -> int:
        begun.set()
        await asyncio.Event().wait()
        return 1

    async def ask() -> int:
        async with database.reading() as session:
            return await load(session)

    leader = asyncio.create_task(ask())
    await begun.wait()
    with deadline(timedelta(milliseconds=10)), pytest.raises(DeadlineExceededError):
        await ask()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader


PROGRAM = """
import asyncio, sys

found = []
sys.addaudithook(lambda event, _: found.append(event) if event.startswith("pickle.") else None)

from backstay.cache._memory import MemoryStore
from backstay.cache._redis import RedisStore
from backstay.cache.cache import Cache, cache_variable
from backstay.cache.cached import cached


@cached("many:{number}", ttl="1h")
async def load(number: int) -> list[str]:
    return ["x"] * number


async def main(url, prefix):
    store = RedisStore(url, prefix=prefix)
    await store.seed()
    for one in (MemoryStore(max_bytes=100_000), store):
        cache_variable.set(Cache(one))
        for _ in range(3):
            await load(3)
    await store.close()


asyncio.run(main(*sys.argv[1:]))
print(found)
"""


async def test_nothing_is_pickled(redis_url: str, redis_prefix: str) -> None:
    command = [sys.executable, "-c", PROGRAM, redis_url, redis_prefix]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""What `@cached` promises to a service, on both databases and both stores."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import ForeignKey, MetaData, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backstay.cache._memory import MemoryStore
from backstay.cache._store import Store
from backstay.cache.cache import Cache
from backstay.cache.cached import UndeclaredReadError, cached
from backstay.cache.forgetting import forget, invalidates
from backstay.db import Database
from backstay.db.sources import row
from backstay.events import (
    CacheBypassed,
    CacheEvent,
    CacheHit,
    CacheMissed,
    CacheShared,
    CacheValueRefused,
    Event,
    subscribed,
)
from backstay.settings import Settings
from backstay.transaction import source_of

both = pytest.mark.databases("sqlite", "postgresql")


class Tables(DeclarativeBase):
    metadata = MetaData()


class Team(Tables):
    __tablename__ = "cached_teams"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Person(Tables):
    __tablename__ = "cached_people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    team_id: Mapped[int | None] = mapped_column(ForeignKey("cached_teams.id"))


class PersonRead(BaseModel):
    id: int
    name: str


PEOPLE = row(Person, "person_id")


@cached("person:{person_id}", ttl="1h", reads=[PEOPLE])
async def get_person(session: AsyncSession, person_id: int) -> PersonRead | None:
    person = await session.get(Person, person_id)
    return None if person is None else PersonRead(id=person.id, name=person.name)


@cached("people", ttl="1h", reads=[source_of(Person.__table__)])  # type: ignore[arg-type]  # it is a Table
async def list_people(session: AsyncSession) -> list[PersonRead]:
    people = await session.scalars(select(Person).order_by(Person.id))
    return [PersonRead(id=person.id, name=person.name) for person in people]


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Tables.metadata


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore(max_bytes=1_000_000)
    store: Store = request.getfixturevalue("redis_store")
    return store


@pytest.fixture
def cache(store: Store) -> Cache:
    return Cache(store, audit_rate=0)


@pytest.fixture
async def database(settings: Settings, cache: Cache) -> AsyncIterator[Database]:
    database = Database(settings.database, participants=(cache,))
    async with database.transaction() as session:
        session.add_all([Person(id=1, name="Ada"), Person(id=2, name="Bob"), Team(id=1, name="core")])
    yield database
    await database.close()


@contextmanager
def heard() -> Iterator[list[Event]]:
    happened: list[Event] = []
    with subscribed(
        happened.append, CacheEvent, CacheHit, CacheMissed, CacheBypassed, CacheShared, CacheValueRefused
    ):
        yield happened


async def read(database: Database, person_id: int = 1) -> tuple[PersonRead | None, str]:
    """Return what a cached read brings, and how it came."""
    with heard() as happened:
        async with database.reading() as session:
            person = await get_person(session, person_id)
    (event,) = happened
    return person, type(event).__name__


async def rename(database: Database, name: str) -> None:
    async with database.transaction() as session:
        (await session.get_one(Person, 1)).name = name


class TestReading:
    async def test_the_second_read_is_a_hit(self, database: Database) -> None:
        assert await read(database) == (PersonRead(id=1, name="Ada"), "CacheMissed")
        assert await read(database) == (PersonRead(id=1, name="Ada"), "CacheHit")

    async def test_nothing_is_a_value_too(self, database: Database) -> None:
        assert await read(database, 9) == (None, "CacheMissed")
        assert await read(database, 9) == (None, "CacheHit")

    async def test_each_caller_gets_an_object_of_its_own(self, database: Database) -> None:
        for _ in range(2):
            person, _ = await read(database)
            assert person is not None
            person.name = "changed by the caller"
        assert (await read(database))[0] == PersonRead(id=1, name="Ada")

    async def test_positional_and_named_arguments_are_one_call(self, database: Database) -> None:
        await read(database)
        with heard() as happened:
            async with database.reading() as session:
                await get_person(session=session, person_id=1)
        assert isinstance(happened[0], CacheHit)

    async def test_arguments_of_another_type_are_another_call(self, database: Database) -> None:
        @cached("echo:{value}", ttl="1h")
        async def echo(session: AsyncSession, value: object) -> str:
            return repr(value)

        async with database.reading() as session:
            values = [1, "1", True, "true", "*", ":", "a:b", None, "None", 1.0, (1, 2), ("1", "2"), b"1"]
            for _ in range(2):
                assert [await echo(session, value) for value in values] == [repr(value) for value in values]

    async def test_a_call_that_the_function_would_refuse_is_refused(self, database: Database) -> None:
        await read(database)
        async with database.reading() as session:
            with pytest.raises(TypeError):
                await get_person(session, 1, 2)  # type: ignore[call-arg]  # it is about that
            with pytest.raises(TypeError):
                await get_person(session, person=1)  # type: ignore[call-arg]  # it is about that


@both
class TestWriting:
    async def test_a_change_is_seen_at_once(self, database: Database) -> None:
        await read(database)
        await rename(database, "Eve")
        person, _ = await read(database)
        assert person == PersonRead(id=1, name="Eve")

    async def test_a_change_of_another_row_leaves_the_entry(self, database: Database) -> None:
        await read(database, 2)
        await rename(database, "Eve")
        assert await read(database, 2) == (PersonRead(id=2, name="Bob"), "CacheHit")

    async def test_a_statement_over_many_rows_reaches_all(self, database: Database) -> None:
        await read(database, 2)
        async with database.transaction() as session:
            await session.execute(update(Person).values(name="X"))
        assert (await read(database, 2))[0] == PersonRead(id=2, name="X")

    async def test_a_list_sees_a_new_row(self, database: Database) -> None:
        async with database.reading() as session:
            assert len(await list_people(session)) == 2
        async with database.transaction() as session:
            session.add(Person(id=3, name="Cy"))
        async with database.reading() as session:
            assert len(await list_people(session)) == 3

    async def test_an_absent_row_is_seen_when_it_comes(self, database: Database) -> None:
        assert (await read(database, 3))[0] is None
        async with database.transaction() as session:
            session.add(Person(id=3, name="Cy"))
        assert (await read(database, 3))[0] == PersonRead(id=3, name="Cy")

    async def test_a_rollback_keeps_the_entry(self, database: Database) -> None:
        await read(database)
        with pytest.raises(RuntimeError):
            async with database.transaction() as session:
                (await session.get_one(Person, 1)).name = "never"
                await session.flush()
                raise RuntimeError
        assert await read(database) == (PersonRead(id=1, name="Ada"), "CacheHit")

    async def test_nobody_gets_the_old_value_once_the_commit_may_have_happened(
        self, database: Database, store: Store
    ) -> None:
        await read(database)
        await store.intend(("cached_people:1",), transaction="t", lifetime_ms=15_000)
        assert (await read(database))[1] == "CacheMissed"
        await store.confirm(("cached_people:1",), transaction="t", token="u")


@both
class TestBypass:
    async def test_a_session_with_changes_reads_its_own(self, database: Database) -> None:
        await read(database)
        with heard() as happened:
            async with database.session() as session:
                (await session.get_one(Person, 1)).name = "mine"
                assert await get_person(session, 1) == PersonRead(id=1, name="mine")
        assert [event for event in happened if isinstance(event, CacheBypassed)]
        assert await read(database) == (PersonRead(id=1, name="Ada"), "CacheHit")

    async def test_a_session_with_a_snapshot_reads_it(self, database: Database) -> None:
        async with database.session(isolation="REPEATABLE READ") as session:
            with heard() as happened:
                await get_person(session, 1)
        assert happened == [
            CacheBypassed(template="person:{person_id}", tables=("cached_people",), reason="isolated")
        ]

    async def test_fresh_runs_the_function_in_the_given_session(self, database: Database) -> None:
        await read(database)
        with heard() as happened:
            async with database.transaction() as session:
                await get_person.fresh(session, 1)
        assert isinstance(happened[0], CacheBypassed)

    async def test_a_locked_row_is_read_past_the_cache(self, database: Database) -> None:
        if not database.is_postgresql:
            pytest.skip("SQLite has no locks on rows.")
        await read(database)
        async with database.session() as session:
            await session.execute(select(Person).where(Person.id == 2).with_for_update())
            with heard() as happened:
                await get_person(session, 1)
        assert [type(event) for event in happened] == [CacheBypassed]


@both
class TestLoading:
    async def test_who_asks_at_the_same_time_shares_one_load(self, database: Database) -> None:
        loads = 0
        begun = asyncio.Event()

        @cached("slow:{number}", ttl="1h", reads=[source_of(Person.__table__)])  # type: ignore[arg-type]  # Table
        async def load(session: AsyncSession, number: int) -> int:
            nonlocal loads
            loads += 1
            begun.set()
            await session.scalars(select(Person.id))
            return number

        async def ask() -> int:
            async with database.reading() as session:
                return await load(session, 7)

        assert await asyncio.gather(*(ask() for _ in range(20))) == [7] * 20
        assert loads == 1

    async def test_a_cancelled_caller_cancels_nobody_else(self, database: Database) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        @cached("waits", ttl="1h")
        async def load(session: AsyncSession) -> int:
            begun.set()
            await go_on.wait()
            return 7

        async def ask() -> int:
            async with database.reading() as session:
                return await load(session)

        leader = asyncio.create_task(ask())
        await begun.wait()
        others = [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(0)
        leader.cancel()
        go_on.set()
        assert await asyncio.gather(*others) == [7, 7, 7]
        with pytest.raises(asyncio.CancelledError):
            await leader

    async def test_the_loader_gets_a_session_of_its_own(self, database: Database) -> None:
        seen: list[AsyncSession] = []

        @cached("session", ttl="1h")
        async def load(session: AsyncSession) -> int:
            seen.append(session)
            return 1

        async with database.reading() as session:
            await load(session)
            assert seen[0] is not session

    async def test_an_identity_map_that_is_old_is_not_looked_into(self, database: Database) -> None:
        async with database.reading() as session:
            await session.get(Person, 1)
            await rename(database, "Eve")
            assert await get_person(session, 1) == PersonRead(id=1, name="Eve")

    async def test_an_error_is_nobodys_value(self, database: Database) -> None:
        fails = True

        @cached("fails", ttl="1h")
        async def load(session: AsyncSession) -> int:
            if fails:
                raise LookupError
            return 1

        async with database.reading() as session:
            with pytest.raises(LookupError):
                await load(session)
            fails = False
            assert await load(session) == 1


class TestDeclarations:
    async def test_a_table_that_is_not_declared_is_an_error(self, database: Database) -> None:
        @cached("team:{person_id}", ttl="1h", reads=[PEOPLE])
        async def team_of(session: AsyncSession, person_id: int) -> str | None:
            statement = (
                select(Team.name).join(Person, Person.team_id == Team.id).where(Person.id == person_id)
            )
            return await session.scalar(statement)

        async with database.reading() as session:
            with pytest.raises(UndeclaredReadError, match="reads cached_teams"):
                await team_of(session, 1)

    async def test_sql_text_is_an_error(self, database: Database) -> None:
        @cached("text", ttl="1h", reads=[source_of(Person.__table__)])  # type: ignore[arg-type]  # Table
        async def load(session: AsyncSession) -> int:
            return await session.scalar(text("SELECT count(*) FROM cached_people")) or 0

        async with database.reading() as session:
            with pytest.raises(UndeclaredReadError, match="what SQL text names"):
                await load(session)

    async def test_a_cached_function_inside_counts_as_what_it_declares(self, database: Database) -> None:
        @cached("outer:{person_id}", ttl="1h")
        async def outer(session: AsyncSession, person_id: int) -> PersonRead | None:
            return await get_person(session, person_id)

        await read(database)
        async with database.reading() as session:
            with pytest.raises(UndeclaredReadError, match="reads cached_people"):
                await outer(session, 1)

    async def test_in_production_it_is_served_and_not_stored(
        self, database: Database, cache: Cache, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.raises_on_undeclared = False

        @cached("count", ttl="1h")
        async def count(session: AsyncSession) -> int:
            return len((await session.scalars(select(Person.id))).all())

        with heard() as happened:
            async with database.reading() as session:
                assert [await count(session), await count(session)] == [2, 2]
        refusals = [event for event in happened if isinstance(event, CacheValueRefused)]
        assert [event.reason for event in refusals] == ["undeclared", "undeclared"]
        assert caplog.text.count("count reads cached_people") == 1


class TestForgetting:
    async def test_forget_takes_the_arguments_of_the_function(self, database: Database, cache: Cache) -> None:
        from backstay.cache.cache import cache_variable

        token = cache_variable.set(cache)
        try:
            for arguments in ({"person_id": 1}, {"person_id": "1"}):
                await read(database)
                await forget(get_person, **arguments)
                assert (await read(database))[1] == "CacheMissed"
            await read(database, 2)
            await forget(reads=[PEOPLE])
            assert (await read(database, 2))[1] == "CacheMissed"
        finally:
            cache_variable.reset(token)

    async def test_forget_waits_for_the_commit(self, database: Database) -> None:
        await read(database)
        async with database.transaction() as session:
            await forget(get_person, session=session, person_id=1)
            assert (await read(database))[1] == "CacheHit"
        assert (await read(database))[1] == "CacheMissed"

    async def test_forget_goes_with_a_rollback(self, database: Database) -> None:
        await read(database)
        with pytest.raises(RuntimeError):
            async with database.transaction() as session:
                await forget(get_person, session=session, person_id=1)
                raise RuntimeError
        assert (await read(database))[1] == "CacheHit"

    @pytest.mark.parametrize("target", [get_person, "person:{person_id}"])
    async def test_invalidates_forgets_with_the_commit(self, database: Database, target: Any) -> None:
        @invalidates(target)
        async def import_person(session: AsyncSession, person_id: int) -> None:
            await session.execute(text("SELECT 1"))

        await read(database)
        async with database.transaction() as session:
            await import_person(session, 1)
        assert (await read(database))[1] == "CacheMissed"


class TestValues:
    async def test_one_over_the_size_limit_is_served_and_not_stored(
        self, database: Database, cache: Cache
    ) -> None:
        cache.max_value_bytes = 10

        @cached("large", ttl="1h")
        async def load(session: AsyncSession) -> str:
            return "x" * 9

        with heard() as happened:
            async with database.reading() as session:
                assert [await load(session), await load(session)] == ["x" * 9] * 2
        refusals = [event for event in happened if isinstance(event, CacheValueRefused)]
        assert [event.reason for event in refusals] == ["too_large"] * 2

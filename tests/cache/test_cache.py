"""`Cache` and its parts: corrupted values, the auditor, failing stores, threads, mutants of the wiring."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import MetaData, select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backstay.background import Supervisor
from backstay.cache._commits import _merge_rows
from backstay.cache._fetching import Fetcher, Request, _Flight
from backstay.cache._memory import MemoryStore, _Entry
from backstay.cache._protocol import Loaded
from backstay.cache._redis import RedisStore
from backstay.cache._store import StoreError
from backstay.cache.cache import Cache, cache_variable
from backstay.cache.cached import cached
from backstay.cache.forgetting import forget, invalidates
from backstay.cache.inspection import list_entries, tags_named
from backstay.db import Database
from backstay.db.sources import row
from backstay.errors import NotFoundError, UnavailableError, UsageError
from backstay.events import CacheIncoherent, CacheUnavailable, CacheValueRefused, Event, subscribed
from backstay.settings import Settings


class Tables(DeclarativeBase):
    metadata = MetaData()


class Ship(Tables):
    __tablename__ = "cache_ships"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@cached("ship:{ship_id}", ttl="1h", reads=[row(Ship, "ship_id")])
async def get_ship(session: AsyncSession, ship_id: int) -> str:
    ship = await session.get(Ship, ship_id)
    if ship is None:
        raise NotFoundError
    return ship.name


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Tables.metadata


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(max_bytes=1_000_000)


@pytest.fixture
async def background(anyio_backend: object) -> AsyncIterator[Supervisor]:
    async with Supervisor() as background:
        yield background


@pytest.fixture
async def cache(store: MemoryStore, background: Supervisor) -> AsyncIterator[Cache]:
    cache = Cache(store, background=background, audit_rate=0)
    token = cache_variable.set(cache)
    yield cache
    cache_variable.reset(token)


@pytest.fixture
async def database(settings: Settings, cache: Cache) -> AsyncIterator[Database]:
    database = Database(settings.database, participants=(cache,))
    async with database.transaction() as session:
        session.add(Ship(id=1, name="Ada"))
    yield database
    await database.close()


async def read(database: Database, ship_id: int = 1) -> str:
    async with database.reading() as session:
        return await get_ship(session, ship_id)


async def rename(database: Database, name: str) -> None:
    async with database.transaction() as session:
        (await session.get_one(Ship, 1)).name = name


async def run_out(background: Supervisor) -> None:
    while background._tasks:
        await asyncio.gather(*background._tasks)


@contextmanager
def heard(*kinds: type[Event]) -> Iterator[list[Event]]:
    happened: list[Event] = []
    with subscribed(happened.append, *kinds):
        yield happened


class TestCorruption:
    @pytest.mark.parametrize("garbage", [b"", b"{", b"7", b"\x80\x04."])
    async def test_a_corrupted_value_is_counted_and_loaded_anew(
        self, database: Database, store: MemoryStore, garbage: bytes
    ) -> None:
        await read(database)
        (key,) = store.state.entries
        entry = store.state.entries[key]
        store.state.entries[key] = _Entry(entry.vector, garbage, entry.expires_at)

        with heard(CacheValueRefused) as happened:
            assert [await read(database), await read(database)] == ["Ada", "Ada"]
        assert happened == [
            CacheValueRefused(template="ship:{ship_id}", tables=("cache_ships",), reason="corrupt")
        ]

    async def test_one_that_appears_between_two_looks_is_not_read_either(
        self, database: Database, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await read(database)
        (key,) = store.state.entries
        entry = store.state.entries[key]
        store.state.entries[key] = _Entry(entry.vector, b"{", entry.expires_at)

        async def look(*_: object) -> None:
            return None

        monkeypatch.setattr(store, "read", look)
        assert await read(database) == "Ada"


class TestAudit:
    @pytest.fixture
    def cache(self, store: MemoryStore, background: Supervisor) -> Cache:
        return Cache(store, background=background, audit_rate=1)

    async def test_a_valid_entry_that_is_wrong_is_told(
        self, database: Database, background: Supervisor, store: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        await read(database)
        (key,) = store.state.entries
        entry = store.state.entries[key]
        store.state.entries[key] = _Entry(entry.vector, b'"Bob"', entry.expires_at)

        with heard(CacheIncoherent) as happened:
            assert await read(database) == "Bob"
            await run_out(background)
        assert len(happened) == 1
        assert "differs from the database" in caplog.text

    async def test_right_ones_are_not(self, database: Database, background: Supervisor) -> None:
        with heard(CacheIncoherent) as happened:
            for name in ("Eve", "Fay"):
                await read(database)
                await read(database)
                await rename(database, name)
            await run_out(background)
        assert happened == []


class FailingStore(MemoryStore):
    """Answers nothing while `fails`."""

    fails = False

    def __getattribute__(self, name: str) -> Any:
        call = super().__getattribute__(name)
        if name in ("read", "lease", "fill", "intend", "confirm", "abort", "forget") and self.fails:

            async def fail(*_: object, **__: object) -> None:
                raise StoreError("no answer")

            return fail
        return call


class TestFailingStore:
    @pytest.fixture
    def store(self) -> FailingStore:
        return FailingStore(max_bytes=1_000_000)

    async def test_reads_go_to_the_database(self, database: Database, store: FailingStore) -> None:
        store.fails = True
        with heard(CacheUnavailable) as happened:
            assert await read(database) == "Ada"
        assert happened == [CacheUnavailable(operation="read"), CacheUnavailable(operation="fill")]

    async def test_a_fill_that_gets_lost_is_a_value_all_the_same(
        self, database: Database, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = store.lease

        async def lease_and_die(*arguments: Any, **options: Any) -> Any:
            answer = await lease(*arguments, **options)
            store.fails = True
            return answer

        monkeypatch.setattr(store, "lease", lease_and_die)
        assert await read(database) == "Ada"

    async def test_forgetting_says_that_it_failed(self, cache: Cache, store: FailingStore) -> None:
        store.fails = True
        with pytest.raises(UnavailableError, match="cannot be forgotten"):
            await forget(get_ship, ship_id=1)

    async def test_a_change_of_other_data_goes_on_and_is_logged(
        self, cache: Cache, store: FailingStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        @invalidates("rate:{currency}")
        async def publish(currency: str) -> str:
            return currency

        store.fails = True
        assert await publish("chf") == "chf"
        assert "Cached values may be stale: key:rate:chf changed." in caplog.text

    async def test_a_strict_cache_refuses_it(self, store: FailingStore) -> None:
        @invalidates("rate:{currency}")
        async def publish(currency: str) -> None:
            pytest.fail("it must not run")

        store.fails = True
        token = cache_variable.set(Cache(store, is_strict=True))
        with pytest.raises(UnavailableError):
            await publish("chf")
        cache_variable.reset(token)


class TestMethods:
    async def test_a_method_is_cached_for_its_owner(self, cache: Cache) -> None:
        loads = []

        class Prices:
            def __init__(self, tenant_id: int) -> None:
                self.tenant_id = tenant_id

            @cached("price:{self.tenant_id}:{sku}", ttl="1h")
            async def price(self, sku: str) -> int:
                loads.append((self.tenant_id, sku))
                return self.tenant_id

        one, other = Prices(1), Prices(2)
        assert [await one.price("a"), await Prices(1).price("a"), await other.price(sku="a")] == [1, 1, 2]
        assert loads == [(1, "a"), (2, "a")]
        assert await one.price.fresh("a") == 1
        await forget(one.price, sku="a")
        assert [await one.price("a"), await other.price("a")] == [1, 2]
        assert loads == [(1, "a"), (2, "a"), (1, "a"), (1, "a")]
        assert await Prices.price(one, "a") == 1


class TestForget:
    @pytest.mark.parametrize(
        ("function", "arguments", "message"),
        [
            (None, {}, "takes a cached function"),
            (None, {"ship_id": 1}, "no function that they belong to"),
            (get_ship, {"ship": 1}, "has no parameter ship"),
            (get_ship, {}, "needs ship_id"),
        ],
    )
    async def test_what_says_not_what_to_forget(
        self, cache: Cache, function: Any, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            await forget(function, **arguments)

    async def test_what_was_committed_inside_is_forgotten_too(self, database: Database) -> None:
        @invalidates(get_ship)
        async def import_ship(session: AsyncSession, ship_id: int) -> None:
            await session.scalars(select(Ship.id))
            await session.commit()

        await read(database)
        async with database.transaction() as session:
            await import_ship(session, 1)
        assert await read(database) == "Ada"

    def test_many_rows_of_one_table_count_as_unknown_rows(self) -> None:
        few = [f"ships:{number}" for number in range(100)]
        assert set(_merge_rows([*few, "ships"])) == {*few, "ships"}
        many = [f"ships:{number}" for number in range(101)]
        assert set(_merge_rows([*many, "ships", "key:a", "*"])) == {"ships:*", "ships", "key:a", "*"}

    def test_names_of_people_are_tables_or_keys(self) -> None:
        assert tags_named(["Users", "user:7"], everything=True) == ["*", "users", "users:*", "key:user:7"]

    async def test_a_cache_in_memory_lists_nothing(self, cache: Cache) -> None:
        assert [entry async for entry in list_entries(cache)] == []


class TestThreads:
    @pytest.mark.parametrize("kind", ["memory", "redis"])
    async def test_blocking_code_in_another_thread_announces_its_commit(
        self,
        settings: Settings,
        kind: str,
        store: MemoryStore,
        redis_store: RedisStore,
        background: Supervisor,
    ) -> None:
        cache = Cache(
            redis_store if kind == "redis" else store, background=background, is_strict=True, audit_rate=0
        )
        database = Database(settings.database, participants=(cache,))

        def write(name: str) -> None:
            with database.sync_transaction() as session:
                session.merge(Ship(id=1, name=name))

        for name in ("Ada", "Bob"):
            await asyncio.to_thread(write, name)
            assert await read(database) == name
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(self._fail, database)
        assert await read(database) == "Bob"
        await database.close()

    @staticmethod
    def _fail(database: Database) -> None:
        with database.sync_transaction() as session:
            session.merge(Ship(id=1, name="never"))
            session.flush()
            raise RuntimeError

    async def test_a_cache_that_processes_share_needs_no_watch(self, redis_store: RedisStore) -> None:
        with pytest.raises(UsageError, match="needs no watch"):
            Cache(redis_store).watch(lambda: True)


class TestPassengers:
    async def test_an_error_of_a_load_is_that_of_all_who_came_before_it_began(
        self, database: Database
    ) -> None:
        loads = 0

        @cached("fails", ttl="1h")
        async def load(session: AsyncSession) -> int:
            nonlocal loads
            loads += 1
            await asyncio.sleep(0)
            raise NotFoundError

        async def ask() -> int:
            async with database.reading() as session:
                return await load(session)

        answers = await asyncio.gather(*(ask() for _ in range(20)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {NotFoundError}
        assert loads == 2  # the first one's, and one for all who came while it was under way


class TestMutantsOfTheWiring:
    """Each piece that the explorer does not see, taken out: what it is there for goes wrong."""

    async def test_a_load_in_the_callers_session_finds_what_that_has_seen_before(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def ask() -> str:
            async with database.reading() as session:
                _held = await session.get(Ship, 1)  # the identity map keeps it while somebody does
                await rename(database, "Eve")
                return await get_ship(session, 1)

        assert await ask() == "Eve"
        await rename(database, "Ada")

        async def load_there(self: Fetcher, request: Request, flight: _Flight) -> Loaded:
            assert request.transaction is not None
            return await request.load(request.transaction.carrier)  # type: ignore[attr-defined]  # the fault

        monkeypatch.setattr(Fetcher, "_load", load_there)
        assert await ask() == "Ada"

    async def test_a_flight_that_counts_as_seated_too_early_waits_for_its_passenger(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pools = {"pool_size": 1, "pool_overflow": 0, "pool_timeout": timedelta(milliseconds=500)}
        options = settings.database.model_copy(update=pools)
        assert await self._meet(options) == ["Ada", "Ada"]

        class SeatedTooEarly(_Flight):
            def __init__(self, began: int) -> None:
                super().__init__(began)
                self.is_seated = True

        monkeypatch.setattr("backstay.cache._fetching._Flight", SeatedTooEarly)
        held, led = await self._meet(options)
        assert held == "Ada"
        assert isinstance(led, PoolTimeoutError)

    async def _meet(self, options: Any) -> list[Any]:
        """Let one hold the only connection while another, without one, begins to load."""
        cache = Cache(MemoryStore(max_bytes=100_000))
        database = Database(options, participants=(cache,))
        async with database.transaction() as session:
            await session.merge(Ship(id=1, name="Ada"))
        held = asyncio.Event()

        async def hold() -> str:
            async with database.reading() as session:
                await session.scalars(select(Ship.id))
                held.set()
                while not cache._fetcher._flights:  # noqa: ASYNC110  it tells nobody
                    await asyncio.sleep(0)
                return await get_ship(session, 1)

        async def lead() -> str:
            await held.wait()
            return await read(database)

        tasks: list[Callable[[], Awaitable[str]]] = [hold, lead]
        values = await asyncio.gather(*(task() for task in tasks), return_exceptions=True)
        await database.close()
        return values

"""What the cache does in a service: with a Redis that dies, with several workers, from blocking code."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from sqlalchemy import MetaData, select
from sqlalchemy.orm import Mapped, mapped_column

from backstay import (
    ReadSessionDep,
    SessionDep,
    cached,
    create_app,
    current_runtime,
    forget,
    invalidates,
    public,
)
from backstay.app._caching import require_shared_cache
from backstay.app.runtime import Runtime, open_runtime
from backstay.cache.cache import Cache
from backstay.db import AsyncSession, Database, Model, outbox_table, row
from backstay.db.types import String
from backstay.errors import ConfigurationError, UsageError
from backstay.settings import CacheSettings, DatabaseSettings, ServerSettings, Settings
from backstay.testing import Events
from backstay.testing._redis_server import RedisServer


class Base(Model):
    __abstract__ = True
    metadata = MetaData()  # no test that looks at all models is to find it


class Memo(Base):
    __tablename__ = "caching_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(40))


@cached("note:{note_id}", ttl="1h", reads=[row(Memo, "note_id")])
async def get_note(session: AsyncSession, note_id: int) -> str | None:
    return await session.scalar(select(Memo.text).where(Memo.id == note_id))


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Base.metadata


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    if not RedisServer.is_available():
        pytest.skip("There is no redis-server on the PATH.")
    with RedisServer(tmp_path) as server:
        yield server


def with_redis(settings: Settings, redis: RedisServer, **values: object) -> Settings:
    cache = CacheSettings(url=SecretStr(redis.url), operation_timeout=timedelta(seconds=5))
    return settings.model_copy(update={"cache": cache.model_copy(update=values)})


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[AsyncClient]:
    app = create_app(settings, dependencies=[public])

    @app.get("/notes/{note_id}")
    async def read(note_id: int, session: ReadSessionDep) -> str | None:
        return await get_note(session, note_id)

    @app.put("/notes/{note_id}")
    async def write(note_id: int, text: str, session: SessionDep) -> None:
        await session.merge(Memo(id=note_id, text=text))

    async with app.router.lifespan_context(app), _client(app) as client:
        yield client


@asynccontextmanager
async def _client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://testserver") as client:
        yield client


@pytest.fixture
async def tables(database: Database) -> None:
    async with database.engine.begin() as connection:
        await connection.run_sync(outbox_table.create)


async def count_notes(database: Database) -> int:
    async with database.reading() as session:
        return len((await session.execute(select(outbox_table.c.id))).all())


@pytest.mark.usefixtures("tables")
@pytest.mark.databases("sqlite", "postgresql")
class TestWithoutRedis:
    async def test_a_change_is_committed_and_waits_in_the_outbox(
        self, settings: Settings, redis: RedisServer, database: Database
    ) -> None:
        async with served(with_redis(settings, redis)) as client:
            await client.put("/notes/1", params={"text": "old"})
            assert [(await client.get("/notes/1")).json() for _ in range(2)] == ["old", "old"]
            redis.kill()

            assert (await client.put("/notes/1", params={"text": "new"})).status_code == 200
            assert await count_notes(database) == 1
            assert (await client.get("/notes/1")).json() == "new"
            assert (await client.get("/readyz")).status_code == 200

    async def test_a_strict_service_refuses_the_change(
        self, settings: Settings, redis: RedisServer, database: Database
    ) -> None:
        async with served(with_redis(settings, redis, coherence="strict")) as client:
            await client.put("/notes/1", params={"text": "old"})
            redis.kill()

            answer = await client.put("/notes/1", params={"text": "new"})
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert (await client.get("/notes/1")).json() == "old"
            assert await count_notes(database) == 0

    async def test_what_waited_is_forgotten_when_redis_answers_again(
        self, settings: Settings, redis: RedisServer, database: Database
    ) -> None:
        async with database.transaction() as session:
            session.add(Memo(id=1, text="old"))
        async with open_runtime(with_redis(settings, redis)) as runtime:
            assert await _read(runtime) == "old"
            redis.freeze()
            runtime.cache.store._connections._timeout_seconds = 0.05  # type: ignore[attr-defined]  # Redis's
            async with runtime.database.transaction() as session:
                (await session.get_one(Memo, 1)).text = "new"
            redis.thaw()
            assert await count_notes(database) == 1

            runtime.cache.store._connections._timeout_seconds = 5  # type: ignore[attr-defined]  # the same
            async with database.reading() as session:
                payloads = list(await session.scalars(select(outbox_table.c.payload)))
            await runtime.cache.commits.deliver(payloads)
            assert await _read(runtime) == "new"


async def _read(runtime: Runtime) -> str | None:
    async with runtime.database.reading() as session:
        return await get_note(session, 1)


class TestProcesses:
    POSTGRESQL = DatabaseSettings(url=SecretStr("postgresql://localhost/shop"))

    def test_workers_that_would_cache_alone_do_not_start(self) -> None:
        settings = Settings(name="shop", server=ServerSettings(workers=2), database=self.POSTGRESQL)
        with pytest.raises(ConfigurationError, match="2 worker processes would have a cache of its own"):
            require_shared_cache(settings)

    @pytest.mark.parametrize(
        "values",
        [
            {"server": ServerSettings(workers=1), "database": POSTGRESQL},
            {"server": ServerSettings(workers=2)},
            {
                "server": ServerSettings(workers=2),
                "database": POSTGRESQL,
                "cache": CacheSettings(url=SecretStr("redis://localhost")),
            },
        ],
    )
    def test_one_alone_a_sqlite_file_and_a_redis_are_fine(self, values: dict[str, object]) -> None:
        require_shared_cache(Settings(name="shop", **values))  # type: ignore[arg-type]  # sections by name

    async def test_workers_on_one_sqlite_file_see_each_others_changes(
        self, settings: Settings, database: Database
    ) -> None:
        several = settings.model_copy(update={"server": ServerSettings(workers=2)})
        async with open_runtime(several) as one, open_runtime(several) as other:
            for text in ("old", "new", "newer"):
                async with one.database.transaction() as session:
                    await session.merge(Memo(id=1, text=text))
                assert [await _read(runtime) for runtime in (other, one, other)] == [text] * 3

    async def test_without_the_watch_they_do_not(self, settings: Settings) -> None:
        async with open_runtime(settings) as one, open_runtime(settings) as other:
            for text in ("old", "new"):
                async with one.database.transaction() as session:
                    await session.merge(Memo(id=1, text=text))
                seen = await _read(other)
            assert seen == "old"


async def test_blocking_code_is_seen_too(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        for text in ("old", "new"):
            with runtime.database.sync_transaction() as session:
                session.merge(Memo(id=1, text=text))
            assert await _read(runtime) == text


@pytest.mark.usefixtures("tables")
class TestBlockingWithRedis:
    async def test_it_waits_in_the_outbox(
        self, settings: Settings, redis: RedisServer, database: Database
    ) -> None:
        async with open_runtime(with_redis(settings, redis)) as runtime:
            with runtime.database.sync_transaction() as session:
                session.add(Memo(id=1, text="new"))
            assert await count_notes(database) == 1

    async def test_strict_refuses_it(self, settings: Settings, redis: RedisServer) -> None:
        async with open_runtime(with_redis(settings, redis, coherence="strict")) as runtime:
            with (
                pytest.raises(UsageError, match="cannot be asked from the thread"),
                runtime.database.sync_transaction() as session,
            ):
                session.add(Memo(id=1, text="new"))


class TestWithoutSession:
    async def test_a_function_without_a_session_finds_the_cache_of_its_service(
        self, runtime: Runtime, cache: Cache
    ) -> None:
        rates = {"chf": 1}

        @cached("rate:{currency}", ttl="1h")
        async def rate(currency: str) -> int:
            return rates[currency]

        @invalidates(rate)
        async def change(currency: str, new: int) -> None:
            rates[currency] = new
            assert await rate(currency) == new  # nobody gets the old value from here on

        assert current_runtime().cache is cache
        assert await rate("chf") == 1
        rates["chf"] = 2
        assert await rate("chf") == 1
        await forget(rate, currency="chf")
        assert await rate("chf") == 2
        await change("chf", 3)
        assert await rate("chf") == 3

    async def test_outside_of_a_service_it_just_runs(self) -> None:
        @cached("now", ttl="1h")
        async def now() -> int:
            return 7

        assert await now() == 7
        with pytest.raises(UsageError, match="There is no cache here"):
            await forget(now)

    async def test_a_soft_ttl_serves_the_old_value_while_one_loads_anew(
        self, runtime: Runtime, events: Events, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = iter(range(10))

        @cached("soft", ttl="1h", soft_ttl="1m")
        async def number() -> int:
            return next(values)

        assert [await number(), await number()] == [0, 0]
        now = [0.0]
        monkeypatch.setattr("backstay.cache.cached.time.time", lambda: now[0])
        now[0] = 1e12
        assert [await number() for _ in range(3)] == [0, 0, 0]
        for task in list(runtime.background._tasks):
            if task.get_name() == "backstay.cache.refresh":
                await task
        assert await number() == 1

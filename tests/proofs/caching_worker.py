"""One of the processes of test_cache.py: it reads and writes rows, compares, and dies where it is told to.

`python caching_worker.py DATABASE_URL REDIS_URL PREFIX backstay|cashews POINT`; a line of JSON every 0.2 s
says what it saw since the last one. The protocol's times are a tenth of the real ones, so that a run meets
them often.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import MetaData, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backstay.cache import _protocol
from backstay.cache._redis import RedisStore
from backstay.cache.cache import Cache
from backstay.cache.cached import cached
from backstay.db import Database, row
from backstay.errors import AppError
from backstay.events import CacheHit, subscribed
from backstay.settings import DatabaseSettings

KEYS = 8
READERS = 3
READS_PER_LOOK = 8
POINTS = ("after the intent", "after the commit", "before the fill")
INTENT = timedelta(seconds=1.5)


class Tables(DeclarativeBase):
    metadata = MetaData()


class Item(Tables):
    __tablename__ = "proof_items"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(default=0)


@cached("item:{item_id}", ttl="1h", reads=[row(Item, "item_id")])
async def read_item(session: AsyncSession, item_id: int) -> int:
    """Return the version of an item, through the cache."""
    return await read_version(session, item_id)


async def read_version(session: AsyncSession, item_id: int) -> int:
    """Return the version of an item as it is in the database."""
    return await session.scalar(select(Item.version).where(Item.id == item_id)) or 0


class QuickCache(Cache):
    """A cache whose intents last a tenth as long."""

    @property
    def commit_bound(self) -> timedelta:
        """How long a commit may take once it is announced."""
        return INTENT / 3


def open_quickly(url: str, redis_url: str, prefix: str) -> tuple[Database, QuickCache, RedisStore]:
    """Return a strict cache with short times, and the database that it takes part in."""
    _protocol._INTENT_MS = int(INTENT.total_seconds() * 1000)  # type: ignore[misc]  # for this process only
    store = RedisStore(redis_url, prefix=prefix, quarantine=INTENT)
    cache = QuickCache(store, is_strict=True, audit_rate=0)
    settings = DatabaseSettings(url=SecretStr(url), pool_size=5, pool_overflow=0)
    return Database(settings, participants=(cache,)), cache, store


def die_at(point: str, cache: QuickCache, store: RedisStore) -> None:
    """See to it that the process dies there, after a while."""
    left = random.randint(3, 40)

    def dying(call: Callable[..., Awaitable[Any]], *, before: bool) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if before and left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = await call(*args, **kwargs)
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    if point == "after the intent":
        store.intend = dying(store.intend, before=False)  # type: ignore[method-assign,assignment]  # the fault
    elif point == "after the commit":
        cache.settle = dying(cache.settle, before=True)  # type: ignore[method-assign,assignment]  # the fault
    elif point == "before the fill":
        store.fill = dying(store.fill, before=True)  # type: ignore[method-assign,assignment]  # the fault


class Worker:
    """Reads and writes, and counts what it saw."""

    def __init__(self, database: Database, reading: Callable[[int], Awaitable[int]]) -> None:
        self.database = database
        self.reading = reading
        self.forget: Callable[[int], Awaitable[None]] | None = None
        self.acknowledged = [0] * KEYS
        self.counts: Counter[str] = Counter()
        self.stale: list[tuple[int, int]] = []

    async def read(self) -> None:
        """Read for ever: each cached value is at least what the database held and what was read before."""
        while True:
            item_id = random.randrange(KEYS)
            try:
                async with self.database.reading() as session:
                    oldest = await read_version(session, item_id)
                for _ in range(READS_PER_LOOK):
                    oldest = await self._compare(item_id, max(oldest, self.acknowledged[item_id]))
            except (SQLAlchemyError, AppError, OSError):
                self.counts["failed reads"] += 1

    async def _compare(self, item_id: int, oldest: int) -> int:
        version = await self.reading(item_id)
        self.counts["reads"] += 1
        if version < oldest:
            self.stale.append((version, oldest))
        return max(version, oldest)

    async def write(self) -> None:
        """Write for ever, with pauses in which values are read."""
        while True:
            await asyncio.sleep(random.uniform(0.005, 0.15))
            item_id = random.randrange(KEYS)
            try:
                async with self.database.transaction() as session:
                    item = await session.get_one(Item, item_id, with_for_update=True)
                    item.version = version = item.version + 1
            except (SQLAlchemyError, AppError, OSError):
                self.counts["refused writes"] += 1
                continue
            self.acknowledged[item_id] = max(version, self.acknowledged[item_id])
            if self.forget is not None:
                await self.forget(item_id)
            self.counts["writes"] += 1

    async def tell(self) -> None:
        """Say what was seen, again and again: a killed process says nothing."""
        while True:
            await asyncio.sleep(0.2)
            sys.stdout.write(json.dumps({"counts": self.counts, "stale": self.stale}) + "\n")
            sys.stdout.flush()
            self.counts.clear()
            self.stale.clear()


async def main(url: str, redis_url: str, prefix: str, library: str, point: str) -> None:
    """Work until killed."""
    database, cache, store = open_quickly(url, redis_url, prefix)

    async def read(item_id: int) -> int:
        async with database.reading() as session:
            return await read_item(session, item_id)

    worker = Worker(database, read)
    if library == "cashews":
        database.participants = ()
        worker.reading, worker.forget = cache_with_cashews(database, redis_url, prefix)
    die_at(point, cache, store)
    with subscribed(lambda _: worker.counts.update(hits=1), CacheHit):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(READERS):
                tasks.create_task(worker.read())
            tasks.create_task(worker.write())
            tasks.create_task(worker.tell())


def cache_with_cashews(
    database: Database, redis_url: str, prefix: str
) -> tuple[Callable[[int], Awaitable[int]], Callable[[int], Awaitable[None]]]:
    """Return the same two with cashews' decorator, as its users write them."""
    from cashews import Cache as Cashews

    cashews = Cashews()
    cashews.setup(redis_url)

    @cashews(ttl="1h", key=f"{prefix}:item:{{item_id}}")
    async def read(item_id: int) -> int:
        async with database.reading() as session:
            return await read_version(session, item_id)

    async def forget(item_id: int) -> None:
        await cashews.delete(f"{prefix}:item:{item_id}")

    return read, forget


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""What a cached read costs, what a write pays for it, and what a Redis that is gone costs.

Run it with `python benchmarks/cache.py [redis://host/0]`; it needs `redis-server` on the PATH for the last
part, and exits with 1 when a bound is missed. Contenders take turns, and a ratio is the median of those of
the rounds, so that it holds on a shared machine too.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import secrets
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter_ns
from typing import NamedTuple

import uvloop
from pydantic import BaseModel, SecretStr
from redis.asyncio import Redis
from sqlalchemy import select
from sqlalchemy.orm import Mapped, mapped_column

from backstay.cache._memory import MemoryStore
from backstay.cache._redis import RedisStore
from backstay.cache._store import Store
from backstay.cache.cache import Cache, cache_variable
from backstay.cache.cached import cached
from backstay.db import AsyncSession, Database, Model, row
from backstay.db.types import String
from backstay.settings import DatabaseSettings
from backstay.testing._redis_server import RedisServer

ROUNDS = 30
CALLS = 200
HIT_BOUND = 1.3
MEMORY_BOUND_US = 5.0
WRITE_BOUND = 1.1
GONE_BOUND = 2.0
PATIENT = timedelta(seconds=10)  # a slow moment is measured, not avoided

Call = Callable[[], Awaitable[object]]


class Contender(NamedTuple):
    """What is measured, and what makes everything as it was, which is not."""

    call: Call
    restore: Call | None = None


class User(Model):
    """What is read."""

    __tablename__ = "bench_users"
    user_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))


class UserRead(BaseModel):
    """What is cached."""

    user_id: int
    name: str


async def load_user(session: AsyncSession, user_id: int) -> UserRead:
    """Return a user from the database."""
    user = (await session.scalars(select(User).where(User.user_id == user_id))).one()
    return UserRead(user_id=user.user_id, name=user.name)


@cached("user:{user_id}", ttl="1h", reads=[row(User, "user_id")])
async def get_user(session: AsyncSession, user_id: int) -> UserRead:
    """Return a user, through the cache."""
    return await load_user(session, user_id)


async def open_database(stack: AsyncExitStack, store: Store) -> Database:
    """Return a database with one user and a cache before it."""
    cache = Cache(store, audit_rate=0)
    database = Database(DatabaseSettings(url=SecretStr("sqlite://")), participants=(cache,))
    stack.push_async_callback(database.close)
    async with database.engine.begin() as connection:
        await connection.run_sync(User.metadata.create_all)
    async with database.transaction() as session:
        session.add(User(user_id=1, name="Ada Lovelace"))
    return database


async def take_turns(contenders: dict[str, Contender]) -> dict[str, list[float]]:
    """Return the microseconds per call of each contender, round by round."""
    costs_us: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            costs_us[name].append(await measure(contender))
    return costs_us


async def measure(contender: Contender) -> float:
    """Return the microseconds per call."""
    call, restore = contender
    if restore is None:
        began = perf_counter_ns()
        for _ in range(CALLS):
            await call()
        return (perf_counter_ns() - began) / CALLS / 1000
    passed = 0
    for _ in range(CALLS):
        began = perf_counter_ns()
        await call()
        passed += perf_counter_ns() - began
        await restore()
    return passed / CALLS / 1000


async def measure_hits(url: str) -> dict[str, list[float]]:
    """Return what a hit costs in memory and in Redis, and what the bare commands cost."""
    async with AsyncExitStack() as stack:
        prefix = f"bench{secrets.token_hex(6)}"
        client: Redis = await stack.enter_async_context(Redis.from_url(url))
        store = RedisStore(url, prefix=prefix, timeout=PATIENT)
        stack.push_async_callback(store.close)
        await store.seed()
        shared = await open_database(stack, store)
        own = await open_database(stack, MemoryStore(max_bytes=10_000_000))
        in_redis = await stack.enter_async_context(shared.reading())
        in_memory = await stack.enter_async_context(own.reading())
        value = (await get_user(in_redis, 1)).model_dump_json()
        await client.set(f"{prefix}:raw", value, ex=3600)
        tags, other = ("bench_users", "bench_users:2"), f"{prefix}:other"
        costs_us = await take_turns(
            {
                "memory": Contender(lambda: get_user(in_memory, 1)),
                "redis": Contender(lambda: get_user(in_redis, 1)),
                "get": Contender(lambda: client.get(f"{prefix}:raw")),
                # As writes meet it: tags that nobody else is about to change, and an entry that is there.
                "intent": Contender(
                    lambda: store.intend(tags, transaction="bench", lifetime_ms=15_000),
                    lambda: store.confirm(tags, transaction="bench", token="1"),  # noqa: S106  no secret
                ),
                "delete": Contender(lambda: client.delete(other), lambda: client.set(other, value)),
            }
        )
        await client.unlink(*[key async for key in client.scan_iter(f"{prefix}*", 1000)])
        return costs_us


def ratio(costs_us: dict[str, list[float]], one: str, other: str) -> float:
    """Return how many times as long one takes as the other."""
    return median(left / right for left, right in zip(costs_us[one], costs_us[other], strict=True))


def read_cold(url: str, prefix: str) -> None:
    """Be one of the processes whose 100 readers all want what is not there yet."""
    uvloop.run(_read_cold(url, prefix))


async def _read_cold(url: str, prefix: str) -> None:
    client: Redis = Redis.from_url(url)
    store = RedisStore(url, prefix=prefix, timeout=PATIENT)
    cache_variable.set(Cache(store))

    @cached("cold", ttl="1h")
    async def load() -> int:
        await asyncio.sleep(0.05)
        return int(await client.incr(f"{prefix}:loads"))

    await client.incr(f"{prefix}:ready")
    while int(await client.get(f"{prefix}:ready") or 0) < _PROCESSES:  # noqa: ASYNC110  they share no memory
        await asyncio.sleep(0.001)
    await asyncio.gather(*(load() for _ in range(100)))
    await store.close()
    await client.aclose()


_PROCESSES = 4


async def count_cold_loads(url: str) -> int:
    """Return how often 400 readers in four processes load a value that is not there."""
    prefix = f"bench{secrets.token_hex(6)}"
    store = RedisStore(url, prefix=prefix, timeout=PATIENT)
    await store.seed()
    await store.close()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=read_cold, args=(url, prefix)) for _ in range(_PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
    async with Redis.from_url(url) as client:
        loads = int(await client.get(f"{prefix}:loads") or 0)
        await client.unlink(*[key async for key in client.scan_iter(f"{prefix}*", 1000)])
    return loads


async def measure_without_redis() -> dict[str, tuple[float, int]]:
    """Return the ratio of the p99 to that without a cache, and the failures, for a Redis that is gone."""
    found = {}
    for fault in ("dead", "hung"):
        with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as redis:
            async with AsyncExitStack() as stack:
                store = RedisStore(redis.url, prefix="bench")
                stack.push_async_callback(store.close)
                await store.seed()
                database = await open_database(stack, store)
                redis.kill() if fault == "dead" else redis.freeze()
                found[fault] = await _compare(database)
                redis.thaw()
    return found


async def _compare(database: Database) -> tuple[float, int]:
    failures, ends_at = 0, perf_counter_ns() + 1_000_000_000
    times: dict[str, list[float]] = {"plain": [], "cached": []}
    calls: dict[str, Callable[[AsyncSession], Awaitable[UserRead]]] = {
        "plain": lambda session: load_user(session, 1),
        "cached": lambda session: get_user(session, 1),
    }
    while len(times["cached"]) < 3000:
        for name, call in calls.items():
            began = perf_counter_ns()
            try:
                async with database.reading() as session:
                    await call(session)
            except Exception:  # noqa: BLE001  counted, whatever it is
                failures += 1
            if perf_counter_ns() > ends_at:  # the first second is for noticing
                times[name].append((perf_counter_ns() - began) / 1000)
    p99 = {name: quantiles(values, n=100)[98] for name, values in times.items()}
    return p99["cached"] / p99["plain"], failures


async def run(url: str) -> bool:
    """Measure, print the sentences and return whether all bounds are kept."""
    costs_us = await measure_hits(url)
    hit, write = ratio(costs_us, "redis", "get"), ratio(costs_us, "intent", "delete")
    memory_us = min(costs_us["memory"])
    print(f"A hit in memory takes {memory_us:.1f} us, its key included (bound {MEMORY_BOUND_US:g}).")
    print(
        f"A hit in Redis takes {hit:.2f} times as long as a raw GET of the same bytes: "
        f"{min(costs_us['redis']):.0f} us to {min(costs_us['get']):.0f} us (bound {HIT_BOUND:g})."
    )
    print(
        f"A write waits for its intent {write:.2f} times as long as for one DEL: "
        f"{min(costs_us['intent']):.0f} us to {min(costs_us['delete']):.0f} us (bound {WRITE_BOUND:g})."
    )
    loads = await count_cold_loads(url)
    print(f"400 readers of a cold key in four processes load it {loads} time{'' if loads == 1 else 's'}.")
    kept = memory_us < MEMORY_BOUND_US and hit <= HIT_BOUND and write <= WRITE_BOUND and loads == 1
    for fault, (share, failures) in (await measure_without_redis()).items():
        print(
            f"With a {fault} Redis {failures} reads fail, and the p99 is {share:.2f} times that without a "
            f"cache (bound {GONE_BOUND:g}, after one second)."
        )
        kept = kept and failures == 0 and share < GONE_BOUND
    return kept


def main() -> int:
    """Return the exit code."""
    url = sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379/0"
    return 0 if uvloop.run(run(url)) else 1


if __name__ == "__main__":
    sys.exit(main())

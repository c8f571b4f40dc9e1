"""Two engines, one state machine: whatever is done to both, they answer alike and hold the same."""

import random
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from backstay.cache import _redis, _scripts
from backstay.cache._memory import MemoryState
from backstay.cache._redis import RedisStore
from backstay.cache._store import EVERYTHING, Bypass, Miss

KEYS = ("a", "b")
TAGS = (EVERYTHING, "rows", "rows:1", "rows:*")
HOUR_MS = 3_600_000


@pytest.fixture
async def fake_time(monkeypatch: pytest.MonkeyPatch, redis_client: Redis, redis_prefix: str) -> None:
    """Let the scripts read the time from a key, and leases live until the test ends them."""
    await redis_client.set(f"{redis_prefix}:now", 0)
    now = f"local function now() return tonumber(redis.call('GET', '{redis_prefix}:now')) end\n"
    for name in ("HELLO", "LEASE", "INTEND", "CONFIRM", "ABORT"):
        text = getattr(_scripts, name).text
        assert _scripts._NOW in text
        monkeypatch.setattr(_scripts, name, _scripts.Script(text.replace(_scripts._NOW, now)))
    monkeypatch.setattr(_redis, "LEASE_LIFETIME", timedelta(hours=1))


class Twins:
    """Both engines, and the time and tokens that they share."""

    def __init__(self, redis: RedisStore, client: Redis, prefix: str, seed: int) -> None:
        self.redis, self.client, self.prefix = redis, client, prefix
        self.random = random.Random(seed)
        self.now_ms = 1_000_000
        self.memory = MemoryState(max_bytes=1 << 20, clock=lambda: self.now_ms / 1000)
        self.tokens = (f"g{number}" for number in range(1 << 30))
        self.misses: list[tuple[str, tuple[str, ...], str, tuple[str, ...]]] = []
        self.transactions: list[tuple[list[str], str]] = []
        self.answers: set[str] = set()

    async def begin(self) -> None:
        await self.client.set(f"{self.prefix}:now", self.now_ms)
        await self.hello()

    async def hello(self) -> None:
        run, token = next(self.tokens), next(self.tokens)
        self.memory.hello(run, token)
        store = self.redis
        await store._run_script(
            _scripts.HELLO, (store._run, store._everything), (run, token, store._quarantine_ms)
        )

    def choose_tags(self) -> list[str]:
        return self.random.sample(TAGS, self.random.randint(1, len(TAGS)))

    def choose_read(self) -> tuple[str, tuple[str, ...]]:
        # An entry always depends on the same tags.
        key = self.random.choice(KEYS)
        return key, TAGS[:3] if key == "a" else (EVERYTHING, "rows:*", "rows")

    async def read(self) -> None:
        key, tags = self.choose_read()
        assert await self.redis.read(key, tags) == self.memory.read(key, tags)

    async def lease(self) -> None:
        (key, tags), token = self.choose_read(), next(self.tokens)
        answer = self.memory.lease(key, tags, token=token, lifetime_ms=HOUR_MS)
        assert await self.redis.lease(key, tags, token=token, lifetime_ms=HOUR_MS) == answer
        if isinstance(answer, Miss):
            self.misses.append((key, tags, token, answer.vector))
        kind = answer.reason if isinstance(answer, Bypass) else type(answer).__name__
        self.answers.add(kind)

    async def fill(self) -> None:
        if not self.misses:
            return
        key, tags, token, vector = self.misses.pop(self.random.randrange(len(self.misses)))
        filling: dict[str, Any] = {
            "vector": vector,
            "payload": token.encode(),
            "token": token,
            "lifetime_ms": HOUR_MS,
        }
        is_stored = self.memory.fill(key, tags, **filling)
        assert await self.redis.fill(key, tags, **filling) is is_stored
        self.answers.add(f"filled {is_stored}")

    async def release(self) -> None:
        if self.misses:
            key, _, token, _ = self.misses.pop()
            self.memory.release(key, token=token)
            await self.redis.release(key, token=token)

    async def intend(self) -> None:
        tags, name = self.choose_tags(), next(self.tokens)
        self.memory.intend(tags, transaction=name, lifetime_ms=15_000)
        await self.redis.intend(tags, transaction=name, lifetime_ms=15_000)
        self.transactions.append((tags, name))

    async def confirm(self) -> None:
        if self.transactions:
            tags, name = self.transactions.pop()
            token = next(self.tokens)
            found = self.memory.confirm(tags, transaction=name, token=token)
            assert await self.redis.confirm(tags, transaction=name, token=token) == found

    async def abort(self) -> None:
        if self.transactions:
            tags, name = self.transactions.pop(0)
            token = next(self.tokens)
            self.memory.abort(tags, transaction=name, token=token)
            await self.redis.abort(tags, transaction=name, token=token)

    async def forget(self) -> None:
        tags, token = self.choose_tags(), next(self.tokens)
        self.memory.forget(tags, token=token)
        await self.redis.forget(tags, token=token)

    async def pass_time(self) -> None:
        self.now_ms += self.random.randint(1, 20) * 500
        await self.client.set(f"{self.prefix}:now", self.now_ms)
        for key, (_, ends_at) in list(self.memory.leases.items()):
            if ends_at <= self.now_ms / 1000:
                await self.client.delete(self.redis._lease_key(key))

    async def evict(self) -> None:
        tag = self.random.choice(TAGS)
        self.memory.tags.pop(tag, None)
        await self.client.delete(*self.redis._tag_keys([tag]))

    async def expire(self) -> None:
        key = self.random.choice(KEYS)
        self.memory._drop_entry(key)
        await self.client.delete(self.redis._entry_key(key))

    async def compare(self) -> None:
        for tag in TAGS:
            (value,) = await self.client.mget(*self.redis._tag_keys([tag]))
            assert _parse(value) == _take_apart(self.memory.tags.get(tag)), tag


def _parse(value: Any) -> tuple[str, dict[str, int]] | None:
    if value is None:
        return None
    generation, *intents = value.decode().split(";")
    return generation, {name: int(deadline) for name, deadline in (one.split("=") for one in intents)}


def _take_apart(state: Any) -> tuple[str, dict[str, int]] | None:
    if state is None or isinstance(state, str):
        return None if state is None else (state, {})
    return state.generation, {name: round(deadline * 1000) for name, deadline in state.intents.items()}


@pytest.mark.usefixtures("fake_time")
async def test_both_engines_answer_alike(
    redis_store: RedisStore, redis_client: Redis, redis_prefix: str
) -> None:
    twins = Twins(redis_store, redis_client, redis_prefix, seed=4)
    await twins.begin()
    usual = [twins.read, twins.lease, twins.fill, twins.intend, twins.confirm, twins.abort]
    weights = [3, 5, 3, 1, 1, 1]
    rare = [twins.release, twins.forget, twins.pass_time, twins.evict, twins.expire, twins.hello]
    for _ in range(4000):
        is_rare = twins.random.random() < 0.1
        step = twins.random.choice(rare) if is_rare else twins.random.choices(usual, weights)[0]
        await step()
        await twins.compare()
    assert twins.answers == {"Hit", "Miss", "Busy", "intent", "restart", "filled True", "filled False"}

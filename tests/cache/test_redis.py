"""The state machine in Redis: what a real server can do to it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from secrets import token_hex

import pytest
from redis.asyncio import Redis

from backstay.breaker import Breaker
from backstay.cache._redis import RedisStore
from backstay.cache._store import EVERYTHING, Bypass, Hit, Lease, Miss, StoreError
from backstay.testing._redis_server import RedisServer

TAGS = (EVERYTHING, "rows:1")
HOUR_MS = 3_600_000
PATIENT = timedelta(seconds=5)


@pytest.fixture
async def store(own_redis: RedisServer) -> AsyncIterator[RedisStore]:
    """A store on a server of its own, without a quarantine."""
    store = RedisStore(own_redis.url, prefix="shop", timeout=PATIENT)
    await store.seed()
    yield store
    await store.close()


async def take(store: RedisStore) -> Lease:
    return await store.lease("a", TAGS, token=token_hex(4), lifetime_ms=HOUR_MS)


async def put(store: RedisStore, payload: bytes = b"1") -> bool:
    token = token_hex(4)
    lease = await store.lease("a", TAGS, token=token, lifetime_ms=HOUR_MS)
    assert isinstance(lease, Miss)
    return await store.fill("a", TAGS, vector=lease.vector, payload=payload, token=token, lifetime_ms=HOUR_MS)


async def test_what_is_stored_is_read(redis_store: RedisStore) -> None:
    assert await put(redis_store, b"a\nb|c;d\x00")
    assert await redis_store.read("a", TAGS) == b"a\nb|c;d\x00"
    assert await take(redis_store) == Hit(b"a\nb|c;d\x00")


async def test_a_server_that_is_new_is_not_trusted_for_a_while(redis_url: str, redis_prefix: str) -> None:
    store = RedisStore(redis_url, prefix=redis_prefix, timeout=PATIENT)
    try:
        assert await take(store) == Bypass("restart")
    finally:
        await store.close()


class TestRestart:
    async def test_what_an_older_snapshot_brings_back_is_not_read(
        self, own_redis: RedisServer, store: RedisStore
    ) -> None:
        await put(store)
        client: Redis = Redis.from_url(own_redis.url)
        await client.save()
        await client.aclose()
        own_redis.kill()
        own_redis.start()

        assert await _value_of(own_redis, "shop:entry:a") is not None
        assert await store.read("a", TAGS) is None
        assert await take(store) == Bypass("restart")

    async def test_an_emptied_server_is_noticed_on_open_connections(
        self, own_redis: RedisServer, store: RedisStore
    ) -> None:
        await put(store)
        client: Redis = Redis.from_url(own_redis.url)
        await client.flushall()
        await client.aclose()
        assert await store.read("a", TAGS) is None
        assert await take(store) == Bypass("restart")

    async def test_scripts_come_back_by_themselves(self, own_redis: RedisServer, store: RedisStore) -> None:
        await put(store)
        client: Redis = Redis.from_url(own_redis.url)
        await client.script_flush()
        await client.aclose()
        assert await take(store) == Hit(b"1")


class TestFaults:
    async def test_a_dead_server_is_asked_five_times_and_then_left_alone(
        self, own_redis: RedisServer, store: RedisStore
    ) -> None:
        own_redis.kill()
        for _ in range(5):
            with pytest.raises(StoreError):
                await store.read("a", TAGS)
        assert not store.breaker.is_closed
        with pytest.raises(StoreError, match="left alone"):
            await store.read("a", TAGS)

    async def test_a_server_that_hangs_costs_the_time_limit_and_no_more(
        self, own_redis: RedisServer, store: RedisStore
    ) -> None:
        hasty = RedisStore(own_redis.url, prefix="shop", timeout=timedelta(milliseconds=30))
        own_redis.freeze()
        try:
            for _ in range(5):
                with pytest.raises(StoreError):
                    await hasty.read("a", TAGS)
            assert not hasty.breaker.is_closed
        finally:
            own_redis.thaw()
            await hasty.close()

    async def test_it_is_used_again_when_it_answers_again(self, own_redis: RedisServer) -> None:
        now = [0.0]
        store = RedisStore(
            own_redis.url, prefix="shop", timeout=PATIENT, breaker=Breaker(clock=lambda: now[0])
        )
        await store.seed()
        own_redis.kill()
        for _ in range(5):
            with pytest.raises(StoreError):
                await store.read("a", TAGS)
        own_redis.start()
        now[0] += 1.3
        assert await take(store) == Bypass("restart")
        assert store.breaker.is_closed
        await store.close()

    async def test_a_confirmation_is_not_sent_again_and_a_read_is(
        self, own_redis: RedisServer, store: RedisStore
    ) -> None:
        await put(store)
        own_redis.kill()
        own_redis.start()
        with pytest.raises(StoreError, match="connection to Redis was lost"):
            await store.confirm(TAGS[1:], transaction="t", token=token_hex(4))

        await store.confirm(TAGS[1:], transaction="t", token=token_hex(4))
        own_redis.kill()
        own_redis.start()
        assert await store.read("a", TAGS) is None

    async def test_a_cancelled_call_leaves_no_reply_to_the_next_one(self, store: RedisStore) -> None:
        await put(store)
        for _ in range(200):
            task = asyncio.create_task(store.read("a", TAGS))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await take(store) == Hit(b"1")

    async def test_more_callers_than_connections_wait_for_their_turn(self, own_redis: RedisServer) -> None:
        store = RedisStore(own_redis.url, prefix="shop", timeout=PATIENT, connections=2)
        await store.seed()
        await put(store)
        values = await asyncio.gather(*(store.read("a", TAGS) for _ in range(50)))
        assert values == [b"1"] * 50
        assert store._connections._count <= 2
        await store.close()

    async def test_a_full_server_is_an_error_of_the_store(self, tmp_path: Path) -> None:
        with RedisServer(tmp_path, "--maxmemory", "1") as full:
            store = RedisStore(full.url, prefix="shop", timeout=PATIENT)
            with pytest.raises(StoreError):
                await take(store)
            await store.close()


async def test_a_server_that_may_evict_intents_is_complained_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lru") as careless:
        store = RedisStore(careless.url, prefix="shop", timeout=PATIENT)
        await asyncio.gather(take(store), take(store), take(store))
        await store.close()
    assert caplog.text.count("Redis may evict anything (maxmemory-policy allkeys-lru)") == 1


class TestForeignKeys:
    @pytest.mark.parametrize("name", ["entry:a", "tag:rows:1", "lease:a", "tag:*", "run"])
    async def test_a_key_of_another_type_counts_as_missing(
        self, store: RedisStore, own_redis: RedisServer, name: str
    ) -> None:
        await put(store)
        client: Redis = Redis.from_url(own_redis.url)
        await client.delete(f"shop:{name}")
        await client.lpush(f"shop:{name}", "what is this")
        await client.aclose()

        assert await store.read("a", TAGS) in (None, b"1")
        lease = await take(store)
        assert isinstance(lease, Hit if name in ("lease:a", "run") else Bypass if name == "tag:*" else Miss)

    async def test_garbage_in_an_entry_is_a_miss(self, store: RedisStore, own_redis: RedisServer) -> None:
        await put(store)
        client: Redis = Redis.from_url(own_redis.url)
        await client.set("shop:entry:a", b"\x80\x04pickle")
        await client.aclose()
        assert await store.read("a", TAGS) is None
        assert isinstance(await take(store), Miss)


async def test_keys_and_tags_of_any_length_and_content(redis_store: RedisStore) -> None:
    for name in ("x" * 10_000, "*", "a:b", "ü ;|\n", "x" * 9_999):
        tags = (EVERYTHING, name)
        lease = await redis_store.lease(name, tags, token=f"t{len(name)}", lifetime_ms=HOUR_MS)
        assert isinstance(lease, Miss)
        payload = name[:3].encode()
        assert await redis_store.fill(
            name, tags, vector=lease.vector, payload=payload, token=f"t{len(name)}", lifetime_ms=HOUR_MS
        )
    assert await redis_store.read("*", (EVERYTHING, "*")) == b"*"


async def test_a_tag_with_an_intent_has_no_time_to_live(
    redis_store: RedisStore, redis_client: Redis, redis_prefix: str
) -> None:
    tag = f"{redis_prefix}:tag:rows:1"
    await put(redis_store)
    assert await redis_client.ttl(tag) > 0
    await redis_store.intend(TAGS[1:], transaction="x", lifetime_ms=15_000)
    assert await redis_client.ttl(tag) == -1
    await redis_store.confirm(TAGS[1:], transaction="x", token="y")
    assert await redis_client.ttl(tag) > 0
    assert await redis_client.ttl(f"{redis_prefix}:tag:*") == -1


async def _value_of(server: RedisServer, key: str) -> object:
    client: Redis = Redis.from_url(server.url)
    try:
        return await client.get(key)
    finally:
        await client.aclose()

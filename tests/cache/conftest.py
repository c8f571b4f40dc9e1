"""What the tests of the cache share: a Redis with a prefix of their own, and one of their own to kill."""

import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from secrets import token_hex

import pytest
from redis.asyncio import Redis

from backstay.cache._redis import RedisStore
from backstay.testing._redis_server import RedisServer, answers

SHARED = "redis://127.0.0.1:6379/0"
PATIENT = timedelta(seconds=5)  # a busy machine may halt for longer than the usual limit


def give_up(reason: str) -> None:
    """Skip the test, or fail it where servers are required, as in CI."""
    if os.environ.get("BACKSTAY_REQUIRE_SERVERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that all tests share, one that is there or one that is started."""
    if answers("127.0.0.1", 6379):
        yield SHARED
    elif RedisServer.is_available():
        with RedisServer(tmp_path_factory.mktemp("redis")) as server:
            yield server.url
    else:
        give_up("There is no Redis at 127.0.0.1:6379 and no redis-server on the PATH.")


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[Redis]:
    """A client that looks at what the store does."""
    client: Redis = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def redis_prefix(redis_client: Redis) -> AsyncIterator[str]:
    """A prefix that no other test uses; what is under it goes afterwards."""
    prefix = f"bstest{token_hex(8)}"
    yield prefix
    keys = [key async for key in redis_client.scan_iter(f"{prefix}:*", count=1000)]
    if keys:
        await redis_client.delete(*keys)


@pytest.fixture
async def redis_store(redis_url: str, redis_prefix: str) -> AsyncIterator[RedisStore]:
    """A store with nothing in it and without a quarantine."""
    store = RedisStore(redis_url, prefix=redis_prefix, timeout=PATIENT)
    await store.seed()
    yield store
    await store.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    if not RedisServer.is_available():
        give_up("There is no redis-server on the PATH.")
    with RedisServer(tmp_path) as server:
        yield server

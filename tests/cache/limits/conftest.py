"""A Redis that other tests use too: each test has keys of its own in it, and takes them away."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

URL = os.environ.get("BACKSTAY_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


@pytest.fixture
async def redis_url(anyio_backend: object) -> str:
    """The address of a Redis that answers."""
    async with Redis.from_url(URL, socket_connect_timeout=1) as redis:
        try:
            await redis.ping()
        except OSError:
            if os.environ.get("BACKSTAY_REQUIRE_SERVERS") == "1":
                pytest.fail(f"No Redis answers at {URL}.", pytrace=False)
            pytest.skip(f"No Redis answers at {URL}.")
    return URL


@pytest.fixture
async def prefix(redis_url: str) -> AsyncIterator[str]:
    """What the keys of this test start with."""
    prefix = f"backstay-test-{secrets.token_hex(6)}:"
    yield prefix
    async with Redis.from_url(redis_url) as redis:
        keys = [key async for key in redis.scan_iter(match=f"{prefix}*", count=1000)]
        if keys:
            await redis.unlink(*keys)


class OwnRedis:
    """A Redis of the test's own, which it may stop, hang and start again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._launch()
        async with Redis.from_url(self.url, retry=Retry(ConstantBackoff(0.02), 500)) as redis:
            await redis.ping()

    def _launch(self) -> None:
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self._process = subprocess.Popen(
            ["redis-server", *options], cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@pytest.fixture
async def own_redis(tmp_path: Path, anyio_backend: object) -> AsyncIterator[OwnRedis]:
    if shutil.which("redis-server") is None:
        pytest.skip("There is no redis-server on the PATH.")
    server = OwnRedis(tmp_path)
    await server.start()
    yield server
    server.stop()

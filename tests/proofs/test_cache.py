"""A cached read is as correct as an uncached one: processes, PostgreSQL, a Redis, and what happens to them.

Each read compares the cached value with what the database held just before, and with what was acknowledged.
"""

import asyncio
import json
import logging
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import MetaData

from backstay.db import Database
from backstay.testing._redis_server import RedisServer

from .caching_worker import KEYS, POINTS, Item, Tables, open_quickly, read_item, read_version

pytestmark = [pytest.mark.proof, pytest.mark.databases("postgresql")]

_logger = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("caching_worker.py")
AT_ONCE = 4
DROPPED = 0.002
SETTLED_SECONDS = 2.5


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Tables.metadata


@pytest.fixture
async def items(database: Database) -> None:
    async with database.transaction() as session:
        session.add_all(Item(id=number, version=1) for number in range(KEYS))


@pytest.fixture
def redis(tmp_path: Path) -> Any:
    if not RedisServer.is_available():
        pytest.skip("There is no redis-server on the PATH.")
    with RedisServer(tmp_path) as server:
        yield server


@dataclass
class Seen:
    """What all workers of a run saw."""

    counts: Counter[str] = field(default_factory=Counter)
    stale: list[tuple[int, int]] = field(default_factory=list)
    kills: int = 0
    disturbances: Counter[str] = field(default_factory=Counter)

    def take(self, line: bytes) -> None:
        with suppress(ValueError):  # killed in the middle of it
            told = json.loads(line)
            self.counts.update(told["counts"])
            self.stale += [tuple(pair) for pair in told["stale"]]


class Run:
    """Lets workers work until enough was read, and disturbs them."""

    def __init__(
        self, url: str, redis: RedisServer, *, library: str = "backstay", life: tuple[float, float] = (1, 6)
    ) -> None:
        self.seen = Seen()
        self._life = life
        self.redis = redis
        self._command = (url, "", f"proof{random.getrandbits(32):x}", library)
        self._library = library
        self._passing: set[asyncio.Task[Any]] = set()
        self._wanted: Counter[str] = Counter()
        self._enough = asyncio.Event()
        self._is_over = asyncio.Event()

    @property
    def prefix(self) -> str:
        return self._command[2]

    async def __call__(self, *, reads: int, kills: int, hits: int = 0, at_most_seconds: float) -> Seen:
        self._wanted = Counter(reads=reads, kills=kills, hits=hits)
        async with self._proxied() as redis_url, asyncio.TaskGroup() as tasks:
            self._command = (self._command[0], redis_url, *self._command[2:])
            for _ in range(AT_ONCE):
                tasks.create_task(self._keep_working(with_kills=kills > 0))
            disturbing = tasks.create_task(self._disturb()) if kills else None
            with suppress(TimeoutError):
                async with asyncio.timeout(at_most_seconds):
                    await self._enough.wait()
            self._is_over.set()
            if disturbing is not None:
                disturbing.cancel()
        return self.seen

    def _look_whether_it_is_enough(self) -> None:
        if self._library == "cashews" and self.seen.stale:
            self._enough.set()
        if self._wanted <= self.seen.counts + Counter(kills=self.seen.kills):
            self._enough.set()

    async def _keep_working(self, *, with_kills: bool) -> None:
        while not self._is_over.is_set():
            point = random.choice((*POINTS, "at random")) if with_kills else "never"
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(WORKER), *self._command, point, stdout=asyncio.subprocess.PIPE
            )
            watching = asyncio.create_task(self._watch(process, is_mortal=with_kills))
            over = asyncio.create_task(self._is_over.wait())
            await asyncio.wait({watching, over}, return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            _kill(process)
            await watching
            assert process.returncode == -signal.SIGKILL
            self.seen.kills += 1
            self._look_whether_it_is_enough()

    async def _watch(self, process: asyncio.subprocess.Process, *, is_mortal: bool) -> None:
        assert process.stdout is not None
        death: asyncio.TimerHandle | None = None
        async for line in process.stdout:
            if death is None and is_mortal:  # counted from its first word: on a busy machine it starts slowly
                death = asyncio.get_running_loop().call_later(random.uniform(*self._life), _kill, process)
            self.seen.take(line)
            self._look_whether_it_is_enough()
        if death is not None:
            death.cancel()
        await process.wait()

    async def _disturb(self) -> None:
        """Let Redis hang, die, come back empty, from an older snapshot, or emptied under open connections."""
        disturbances = (self._hang, self._empty, self._bring_back, self._flush)
        while True:
            for disturb in disturbances:
                await asyncio.sleep(random.uniform(1.5, 3))
                self.seen.disturbances[disturb.__name__] += 1
                await disturb()

    async def _hang(self) -> None:
        self.redis.freeze()
        await asyncio.sleep(0.3)
        self.redis.thaw()

    async def _empty(self) -> None:
        (self.redis.directory / "dump.rdb").unlink(missing_ok=True)
        self.redis.kill()
        await asyncio.to_thread(self.redis.start)

    async def _bring_back(self) -> None:
        await self._ask("SAVE")
        await asyncio.sleep(1)
        self.redis.kill()
        await asyncio.to_thread(self.redis.start)

    async def _flush(self) -> None:
        await self._ask("FLUSHALL")

    async def _ask(self, command: str) -> None:
        client: Redis = Redis.from_url(self.redis.url)
        with suppress(RedisError):
            await client.execute_command(command)  # type: ignore[no-untyped-call]  # redis-py's
        await client.aclose()

    @asynccontextmanager
    async def _proxied(self) -> AsyncIterator[str]:
        """Give the address of a proxy that now and then lets a reply get lost after the command was done."""
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        try:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        finally:
            server.close()
            for passing in tuple(self._passing):
                passing.cancel()
            await asyncio.gather(*self._passing, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = asyncio.current_task()
        assert passing is not None
        self._passing.add(passing)
        writers = [writer]
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self.redis.port)
            writers.append(downstream)
            await _pump_both(_pump(upstream, writer, drop=DROPPED), _pump(reader, downstream, drop=0))
        except (OSError, asyncio.CancelledError):
            pass  # Redis is down, or the run is over
        finally:
            for one in writers:
                one.close()
            self._passing.discard(passing)


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()


async def _pump_both(*pumps: Coroutine[Any, Any, None]) -> None:
    """Run both until one ends, then end the other."""
    tasks = [asyncio.create_task(pump) for pump in pumps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, drop: float) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            if drop and random.random() < drop:
                return
            writer.write(data)
            await writer.drain()


async def stuck(url: str, redis: RedisServer, prefix: str) -> list[tuple[int, int]]:
    """Return the keys whose cached value is not the database's once everything is settled."""
    await asyncio.sleep(SETTLED_SECONDS)  # what was announced and never settled has ended by now
    database, cache, _ = open_quickly(url, redis.url, prefix)
    wrong = []
    for number in range(KEYS):
        async with database.reading() as session:
            pair = await read_item(session, number), await read_version(session, number)
        wrong += [pair] if pair[0] != pair[1] else []
    await database.close()
    await cache.close()
    return wrong


@pytest.mark.usefixtures("items")
async def test_the_same_reads_through_cashews_are_stale(database_url: str, redis: RedisServer) -> None:
    """The fault, and the proof that this harness would show it."""
    run = Run(database_url, redis, library="cashews")
    seen = await run(reads=20_000, kills=0, at_most_seconds=60)
    assert seen.stale


@pytest.mark.usefixtures("items")
async def test_no_read_is_stale_whatever_dies(database_url: str, redis: RedisServer, length: Any) -> None:
    # A longer life at full length: half of a short one goes into the start.
    run = Run(database_url, redis, life=length(short=(1, 6), full=(1, 20)))
    reads, kills = length(short=10_000, full=1_000_000), length(short=20, full=200)
    hits = length(short=500, full=50_000)  # or nothing was cached that could be stale
    seen = await run(reads=reads, kills=kills, hits=hits, at_most_seconds=length(short=180, full=7200))

    _logger.info("%d kills, %s, %s", seen.kills, dict(seen.counts), dict(seen.disturbances))
    assert seen.stale == []
    assert seen.counts["reads"] >= reads
    assert seen.kills >= kills
    assert seen.counts["hits"] >= hits
    assert seen.counts["writes"] > 0
    assert await stuck(database_url, redis, run.prefix) == []

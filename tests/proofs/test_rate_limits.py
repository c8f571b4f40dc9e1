"""Four processes at full speed never get more than the limit admits, in any span of time."""

import asyncio
import json
import secrets
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from backstay import create_app, public, rate_limit
from backstay.settings import Settings

pytestmark = pytest.mark.proof

REDIS = "redis://127.0.0.1:6379/0"
CALLER = Path(__file__).with_name("rate_limit_caller.py")
PROCESSES = 4
LIMIT = 20
PER_SECONDS = 0.5

Hits = list[tuple[float, float]]
"""When each admitted hit was sent, and when its answer was there."""


@pytest.fixture
async def name(anyio_backend: object) -> AsyncIterator[str]:
    """What the keys of this test start with, in a Redis that answers."""
    name = f"backstay-proof-{secrets.token_hex(6)}"
    async with Redis.from_url(REDIS, socket_connect_timeout=1) as redis:
        try:
            await redis.ping()
        except OSError:
            pytest.skip(f"No Redis answers at {REDIS}.")
        yield name
        if keys := [key async for key in redis.scan_iter(match=f"{name}*", count=1000)]:
            await redis.unlink(*keys)


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    app = create_app(settings, dependencies=[public])

    @app.post("/limited", dependencies=[rate_limit("limited", limit=LIMIT, per="500ms")])
    async def limited() -> None: ...

    return app


async def _call(kind: str, address: str, name: str, *, bursts: int) -> tuple[int, Hits]:
    """Let the processes begin together; return how many hits they sent, and those that were admitted."""
    arguments = (str(CALLER), kind, address, name, str(LIMIT), str(PER_SECONDS), str(bursts))
    callers = [
        await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=PIPE, stdout=PIPE)
        for _ in range(PROCESSES)
    ]
    for caller in callers:
        assert caller.stdout is not None
        assert await caller.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(caller.communicate(b"0.2\n") for caller in callers))
    reports = [json.loads(out) for out, _ in outputs]
    hits: Hits = [(sent, received) for report in reports for sent, received in report["admitted"]]
    return sum(report["sent"] for report in reports), hits


def _most_in_a_span(hits: Hits) -> int:
    """Return how many hits certainly fell into one span: sent after it began, answered before it ended.

    So whatever delays a process, and the clock that it reads, can hide a hit and never add one.
    """
    return max(
        sum(began <= sent and received < began + PER_SECONDS for sent, received in hits) for began, _ in hits
    )


def _check_pressure(sent: int, hits: Hits, bursts: int) -> None:
    """Hold that there was something to refuse, and that what may be admitted was."""
    assert sent > 2 * len(hits)
    assert len(hits) > LIMIT * bursts / 2


async def test_four_processes_on_redis_never_exceed_the_limit(name: str, length: Any) -> None:
    bursts = length(short=4, full=100)

    sent, hits = await _call("redis", REDIS, name, bursts=bursts)

    assert _most_in_a_span(hits) <= LIMIT
    _check_pressure(sent, hits, bursts)


async def test_four_callers_of_a_memory_limit_never_exceed_it(live_server: Any, length: Any) -> None:
    bursts = length(short=4, full=100)

    sent, hits = await _call("http", live_server.url, "limited", bursts=bursts)

    assert _most_in_a_span(hits) <= LIMIT
    _check_pressure(sent, hits, bursts)


async def test_a_counter_of_fixed_windows_exceeds_the_limit(name: str, length: Any) -> None:
    """The fault, and that this harness sees it."""
    _, hits = await _call("fixed", REDIS, name, bursts=length(short=6, full=20))

    assert _most_in_a_span(hits) > LIMIT + 1

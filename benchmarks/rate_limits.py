"""What a rate limit costs a route: a few microseconds in memory, one round trip to Redis.

Run it with `python benchmarks/rate_limits.py [redis://host/0]`; it exits with 1 when a bound is missed.
Requests go straight into the ASGI app. The contenders take turns, and a ratio is the median of those of the
rounds, so that it holds on a shared machine too.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from statistics import median
from time import perf_counter_ns
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from pydantic import SecretStr
from redis.asyncio import Redis
from starlette.requests import HTTPConnection
from starlette.types import Message, Scope

from backstay import create_app, public, rate_limit
from backstay.settings import CacheSettings, DatabaseSettings, LoggingSettings, Settings

ROUNDS = 40
CALLS = 100
MEMORY_BOUND = 1.5
REDIS_BOUND = 2.0

Contender = Callable[[], Coroutine[Any, Any, None]]


async def do_nothing(connection: HTTPConnection) -> None:
    """Do what every dependency does."""


async def get_key(connection: HTTPConnection) -> None:
    """Read one key of Redis."""
    await connection.app.state.redis.get(connection.app.state.key)


# As many as are sent, so that every hit is admitted and remembered.
LIMITED = rate_limit("bench:{ip}", limit=10_000, per="1h")


async def answer() -> int:
    """Answer."""
    return 1


async def open_app(stack: AsyncExitStack, cache: CacheSettings, dependency: Any) -> FastAPI:
    """Return a running app with one route, which has a dependency."""
    router = APIRouter()
    router.get("/", dependencies=[dependency])(answer)
    settings = Settings(
        environment="test",
        database=DatabaseSettings(url=SecretStr("sqlite://")),
        logging=LoggingSettings(access=False),
        cache=cache,
    )
    app = create_app(settings, routers=[router], dependencies=[public])
    await stack.enter_async_context(app.router.lifespan_context(app))
    return app


async def measure(url: str) -> dict[str, list[float]]:
    """Return the microseconds per call of each contender, round by round."""
    prefix = f"backstay-bench-{secrets.token_hex(6)}"
    patient = timedelta(seconds=10)  # a slow moment is measured, not avoided
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(url))
        await redis.set(prefix, b"1", ex=3600)
        cache = CacheSettings(url=SecretStr(url), prefix=prefix, operation_timeout=patient)
        getting = await open_app(stack, CacheSettings(), Depends(get_key))
        getting.state.redis, getting.state.key = redis, prefix
        contenders = {
            "dependency": sending(await open_app(stack, CacheSettings(), Depends(do_nothing))),
            "memory": sending(await open_app(stack, CacheSettings(), LIMITED)),
            "getting": sending(getting),
            "redis": sending(await open_app(stack, cache, LIMITED)),
        }
        rounds = await take_turns(contenders)
        await redis.unlink(*[key async for key in redis.scan_iter(match=f"{prefix}*", count=1000)])
    return rounds


async def take_turns(contenders: dict[str, Contender]) -> dict[str, list[float]]:
    """Run the contenders one after the other, again and again."""
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    gc.disable()
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            gc.collect()
            await contender()  # the first ones after a collection are slower
            began_ns = perf_counter_ns()
            await contender()
            rounds[name].append((perf_counter_ns() - began_ns) / CALLS / 1000)
    gc.enable()
    return rounds


def sending(app: FastAPI) -> Contender:
    """Return what sends `CALLS` requests."""

    async def send_all() -> None:
        for _ in range(CALLS):
            if await call(app) != 200:
                raise RuntimeError("A request was refused; what is measured is an admitted one.")

    return send_all


async def call(app: FastAPI) -> int:
    """Send one GET and return its status."""
    statuses: list[int] = []

    unread: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not unread:
            await asyncio.Event().wait()  # the caller stays and waits for the answer
        return unread.pop()

    async def send(message: Message) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "state": {},
    }
    await app(scope, receive, send)
    return statuses[0]


def ratio(costs_us: dict[str, list[float]], one: str, other: str) -> float:
    """Return how many times as long one takes as the other."""
    return median(left / right for left, right in zip(costs_us[one], costs_us[other], strict=True))


def main() -> int:
    """Measure, print the sentences and return the exit code."""
    url = sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379/0"
    costs_us = asyncio.run(measure(url))
    memory, redis = ratio(costs_us, "memory", "dependency"), ratio(costs_us, "redis", "getting")
    added_us = min(costs_us["memory"]) - min(costs_us["dependency"])
    print(
        f"A route with a limit in memory takes {memory:.2f} times as long as with a dependency that does "
        f"nothing: {added_us:.1f} us more than {min(costs_us['dependency']):.1f} us (bound {MEMORY_BOUND:g})."
    )
    print(
        f"With a limit in Redis it takes {redis:.2f} times as long as with a raw GET of one key: "
        f"{min(costs_us['redis']):.0f} us to {min(costs_us['getting']):.0f} us (bound {REDIS_BOUND:g})."
    )
    return 0 if memory < MEMORY_BOUND and redis < REDIS_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())

"""One process that hits a limit at full speed, in bursts, and writes when each admitted hit was.

    python rate_limit_caller.py KIND ADDRESS NAME LIMIT PER_SECONDS BURSTS

KIND is `redis` (our limit, in this process), `http` (our limit, in a server at ADDRESS) or `fixed` (a naive
counter that begins anew with each span). It writes `ready`, waits for a line with the time to begin, and
writes how many hits it sent, and pairs: when an admitted one was sent, and when its answer was there.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

from httpx2 import AsyncClient, Limits
from redis.asyncio import Redis

BUSY, CYCLE = 0.6, 1.3  # in spans, so that bursts begin everywhere in a fixed window
TASKS = 8

Hit = Callable[[], Awaitable[bool]]
kind, address, name = sys.argv[1:4]
limit, per_seconds, bursts = int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
# Of the same clock as what counts.
read_clock = time.monotonic if kind == "http" else time.time


async def hit_in_redis(stack: AsyncExitStack) -> Hit:
    # Here, so that the other kinds start faster.
    from pydantic import SecretStr

    from backstay import open_runtime, rate_limit
    from backstay.errors import RateLimitedError
    from backstay.settings import CacheSettings, DatabaseSettings, Settings

    cache = CacheSettings(url=SecretStr(address), prefix=name, operation_timeout=timedelta(seconds=30))
    database = DatabaseSettings(url=SecretStr("sqlite://"))
    await stack.enter_async_context(open_runtime(Settings(cache=cache, database=database)))
    limited = rate_limit("proof:{key}", limit=limit, per=timedelta(seconds=per_seconds))

    async def hit() -> bool:
        try:
            await limited.hit(key="one")
        except RateLimitedError:
            return False
        return True

    return hit


async def hit_over_http(stack: AsyncExitStack) -> Hit:
    client = await stack.enter_async_context(
        AsyncClient(base_url=address, timeout=60, limits=Limits(max_connections=TASKS))
    )

    async def hit() -> bool:
        return (await client.post(f"/{name}")).status_code == 200

    return hit


async def hit_fixed_window(stack: AsyncExitStack) -> Hit:
    redis = await stack.enter_async_context(Redis.from_url(address))

    async def hit() -> bool:
        key = f"{name}:{int(time.time() // per_seconds)}"
        count = int(await redis.incr(key))
        if count == 1:
            await redis.pexpire(key, round(per_seconds * 2000))
        return count <= limit

    return hit


async def call(hit: Hit, began: float, admitted: list[tuple[float, float]]) -> int:
    count = 0
    for burst in range(bursts):
        starts = began + burst * CYCLE * per_seconds
        await asyncio.sleep(max(0.0, starts - read_clock()))
        while (sent := read_clock()) < starts + BUSY * per_seconds:
            count += 1
            if await hit():
                admitted.append((sent, read_clock()))
    return count


async def main() -> None:
    makers = {"redis": hit_in_redis, "http": hit_over_http, "fixed": hit_fixed_window}
    admitted: list[tuple[float, float]] = []
    async with AsyncExitStack() as stack:
        hit = await makers[kind](stack)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        began = read_clock() + float(sys.stdin.readline())
        counts = await asyncio.gather(*(call(hit, began, admitted) for _ in range(TASKS)))
    sys.stdout.write(json.dumps({"sent": sum(counts), "admitted": admitted}))


if __name__ == "__main__":
    asyncio.run(main())

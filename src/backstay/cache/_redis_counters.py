"""What a rate limit counts with when several processes count together: the same as in memory, in Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from backstay.cache._counters import CountersAwayError, Quota, Verdict

__all__ = ["RedisCounters"]

_CONNECTION_SECONDS: Final = 5.0  # the caller is not that patient

# The list holds when the admitted hits of a key were, oldest first. A clock that was set back counts on from
# the newest of them: better to admit too late than twice. The search halves the list, since a key that comes
# back after a pause may have thousands of old hits, and Redis serves nobody else meanwhile.
_HIT: Final = """
local limit, per = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(ARGV[3])
if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local function at(index)
    return tonumber(redis.call('LINDEX', KEYS[1], index) or nil)
end
local count, oldest = redis.call('LLEN', KEYS[1]), nil
if count > 0 then
    now, oldest = math.max(now, at(-1)), at(0)
end
local edge = now - per
if count > 0 and oldest <= edge then
    local low, high = 0, count
    while low < high do
        local middle = math.floor((low + high) / 2)
        if at(middle) <= edge then low = middle + 1 else high = middle end
    end
    redis.call('LTRIM', KEYS[1], low, -1)
    count, oldest = count - low, at(0)
end
if count >= limit then
    return {0, 0, oldest - edge}
end
redis.call('RPUSH', KEYS[1], string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(per / 1000) + 1)
return {1, limit - count - 1, (oldest or now) - edge}
"""
_HIT_SHA: Final = hashlib.sha1(_HIT.encode(), usedforsecurity=False).hexdigest()


class RedisCounters:
    """Counts in Redis, by the clock of its server.

    Args:
        url: Where it is: `redis://host/0`.
        prefix: What every key starts with.
        max_connections: How many hits are under way at once; others wait.
        clock: Returns microseconds; the server's clock unless a test brings its own.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        max_connections: int = 16,
        clock: Callable[[], int] | None = None,
    ) -> None:
        # One repetition: after a restart of Redis the first command finds a dead connection.
        retry = Retry(NoBackoff(), 1)
        pool = BlockingConnectionPool.from_url(
            url, max_connections=max_connections, timeout=_CONNECTION_SECONDS, retry=retry
        )
        self._client = Redis.from_pool(pool)
        self._prefix = prefix
        self._clock = clock

    async def hit(self, key: str, quota: Quota) -> Verdict:
        """Count a hit of `key`, unless it is one too many.

        Raises:
            CountersAwayError: Redis cannot be reached, or refuses.
        """
        now = "" if self._clock is None else str(self._clock())
        try:
            reply = await self._run(f"{self._prefix}{key}", quota.limit, quota.per_us, now)
        except (RedisError, OSError) as error:
            raise CountersAwayError(type(error).__name__) from error
        is_admitted, remaining, left_us = reply
        return Verdict(bool(is_admitted), remaining, left_us / 1e6)

    async def _run(self, *arguments: str | int) -> list[int]:
        try:
            return await cast("Awaitable[list[int]]", self._client.evalsha(_HIT_SHA, 1, *arguments))
        except NoScriptError:
            # Redis was started since, and has forgotten its scripts.
            return await cast("Awaitable[list[int]]", self._client.eval(_HIT, 1, *arguments))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

"""The state machine in Redis 7: one MGET to read, one script for every other step."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from secrets import token_hex
from typing import Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError

from backstay.breaker import Breaker
from backstay.cache import _scripts
from backstay.cache._connections import Connections, Reply, ask
from backstay.cache._store import (
    BUSY,
    EVERYTHING,
    INTENT_LIFETIME,
    LEASE_LIFETIME,
    TAG_LIFETIME,
    Bypass,
    Hit,
    Lease,
    Miss,
    StoreError,
)

__all__ = ["RedisStore"]

_logger = logging.getLogger("backstay.cache")

_LONGEST_NAME: Final = 200


def _milliseconds(length: timedelta) -> int:
    return length // timedelta(milliseconds=1)


class RedisStore:
    """Redis as a store; the same server may serve other services under another prefix.

    Args:
        url: `redis://` or `rediss://`.
        prefix: What every key starts with.
        timeout: For one operation.
        connections: How many at the most.
        breaker: When to stop asking.
        quarantine: How long a restart holds back hits and fills.
    """

    def __init__(  # noqa: PLR0913  each with a default of its own
        self,
        url: str,
        *,
        prefix: str,
        timeout: timedelta = timedelta(milliseconds=50),
        connections: int = 32,
        breaker: Breaker | None = None,
        quarantine: timedelta = INTENT_LIFETIME,
    ) -> None:
        self._tag_start = f"{prefix}:tag:"
        self._entry_start = f"{prefix}:entry:"
        self._lease_start = f"{prefix}:lease:"
        self._run = f"{prefix}:run"
        self._everything = self._tag_start + EVERYTHING
        self._quarantine_ms = _milliseconds(quarantine)
        self._connections = Connections(
            url, limit=connections, timeout_seconds=timeout.total_seconds(), greet=self._greet
        )
        self.breaker = breaker or Breaker()
        self._has_warned = False

    async def _greet(self, connection: AbstractConnection) -> None:
        facts = _read_facts(await ask(connection, "INFO", "server", "memory"))
        run = _run_in(facts)
        self._warn_about_eviction(facts.get("maxmemory_policy", ""))
        command = _eval_text(
            _scripts.HELLO, (self._run, self._everything), (run, token_hex(8), self._quarantine_ms)
        )
        answer: bytes = await ask(connection, *command)
        if answer != b"same":
            level = logging.INFO if answer == b"new" else logging.WARNING
            _logger.log(
                level,
                "Redis is %s: for %g s no cached values are read.",
                answer.decode(),
                self._quarantine_ms / 1000,
            )

    def _warn_about_eviction(self, policy: str) -> None:
        if policy.startswith("allkeys") and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "Redis may evict anything (maxmemory-policy %s), announced commits too: set volatile-lru or "
                "noeviction.",
                policy,
            )

    async def seed(self) -> None:
        """Begin without a quarantine: for tests, whose prefix nobody else has used."""
        run = _run_in(_read_facts(await self._call("INFO", "server")))
        await self._call("MSET", self._run, run, self._everything, token_hex(8))

    async def read(self, key: str, tags: Sequence[str]) -> bytes | None:
        """Return the payload of a valid entry."""
        command = ("MGET", self._entry_key(key), *self._tag_keys(tags))
        values: list[bytes | None] = await self._call(*command, may_repeat=True)
        entry = values.pop(0)
        if entry is None or None in values:
            return None
        header = b"|".join(values) + b"\n"  # type: ignore[arg-type]  # mypy does not follow `in`
        if b";" in header or not entry.startswith(header):
            return None
        return entry[len(header) :]

    async def lease(self, key: str, tags: Sequence[str], *, token: str, lifetime_ms: int) -> Lease:
        """Say what a reader without a hit is to do."""
        tag_lifetime_ms = max(2 * lifetime_ms, _milliseconds(TAG_LIFETIME))
        reply = await self._run_script(
            _scripts.LEASE,
            (self._entry_key(key), self._lease_key(key), *self._tag_keys(tags)),
            (token, _milliseconds(LEASE_LIFETIME), tag_lifetime_ms, self._quarantine_ms),
        )
        return _read_lease(reply)

    async def fill(  # noqa: PLR0913  as in the protocol
        self,
        key: str,
        tags: Sequence[str],
        *,
        vector: Sequence[str],
        payload: bytes,
        token: str,
        lifetime_ms: int,
    ) -> bool:
        """Store the payload if nothing changed since the lease."""
        reply = await self._run_script(
            _scripts.FILL,
            (self._entry_key(key), self._lease_key(key), *self._tag_keys(tags)),
            (token, lifetime_ms, "|".join(vector), payload),
            may_repeat=True,
        )
        return bool(reply)

    async def release(self, key: str, *, token: str) -> None:
        """Give a lease back."""
        await self._run_script(_scripts.RELEASE, (self._lease_key(key),), (token,))

    async def intend(self, tags: Sequence[str], *, transaction: str, lifetime_ms: int) -> None:
        """Hold back hits and fills of these tags."""
        await self._run_script(
            _scripts.INTEND,
            (self._everything, *self._tag_keys(tags)),
            (transaction, lifetime_ms, _milliseconds(TAG_LIFETIME), self._quarantine_ms),
            may_repeat=True,
        )

    async def confirm(self, tags: Sequence[str], *, transaction: str, token: str) -> int:
        """Give the tags new generations; return of how many the intent was still there."""
        return int(await self._end_intents(_scripts.CONFIRM, tags, transaction=transaction, token=token))

    async def abort(self, tags: Sequence[str], *, transaction: str, token: str) -> None:
        """Remove the intents; the entries stay valid."""
        await self._end_intents(_scripts.ABORT, tags, transaction=transaction, token=token)

    async def forget(self, tags: Sequence[str], *, token: str) -> None:
        """Give the tags new generations."""
        await self._end_intents(_scripts.CONFIRM, tags, transaction="", token=token)

    async def _end_intents(
        self, script: _scripts.Script, tags: Sequence[str], *, transaction: str, token: str
    ) -> Reply:
        return await self._run_script(
            script,
            (self._everything, *self._tag_keys(tags)),
            (transaction, token, _milliseconds(TAG_LIFETIME), self._quarantine_ms),
        )

    async def scan(self) -> AsyncIterator[tuple[str, int, int]]:
        """Yield the key of each entry, its bytes, and the seconds that it lives."""
        cursor = b"0"
        while True:
            cursor, keys = await self._call("SCAN", cursor, "MATCH", f"{self._entry_start}*", "COUNT", 500)
            for key in keys:
                size = await self._call("STRLEN", key)
                seconds = await self._call("TTL", key)
                yield key.decode().removeprefix(self._entry_start), size, seconds
            if cursor == b"0":
                return

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    def _entry_key(self, key: str) -> str:
        return self._entry_start + _shorten(key)

    def _lease_key(self, key: str) -> str:
        return self._lease_start + _shorten(key)

    def _tag_keys(self, tags: Sequence[str]) -> list[str]:
        start = self._tag_start
        return [start + tag if len(tag) <= _LONGEST_NAME else start + _shorten(tag) for tag in tags]

    async def _run_script(
        self,
        script: _scripts.Script,
        keys: Sequence[str],
        arguments: Sequence[str | bytes | int],
        *,
        may_repeat: bool = False,
    ) -> Reply:
        # What gives tags new generations is not sent twice: the second time, maybe late, would bring a
        # generation back that others have already left behind, and with it the values stored under it.
        command = ("EVALSHA", script.digest, len(keys), *keys, *arguments)
        try:
            return await self._call(*command, may_repeat=may_repeat)
        except NoScriptError:
            return await self._call(*_eval_text(script, keys, arguments), may_repeat=may_repeat)

    async def _call(self, *command: str | bytes | int, may_repeat: bool = False) -> Reply:
        if not self.breaker.admits():
            raise StoreError("Redis did not answer lately, and is left alone for a moment.")
        try:
            reply = await self._connections.call(*command, may_repeat=may_repeat)
        except NoScriptError:
            self.breaker.succeed()
            raise
        except StoreError:
            self.breaker.fail()
            raise
        except ResponseError as error:
            self.breaker.fail()
            raise StoreError(f"Redis refused a command: {error}") from error
        except BaseException:
            self.breaker.abandon()
            raise
        self.breaker.succeed()
        return reply


def _eval_text(
    script: _scripts.Script, keys: Sequence[str], arguments: Sequence[str | bytes | int]
) -> tuple[str | bytes | int, ...]:
    return ("EVAL", script.text, len(keys), *keys, *arguments)


def _read_facts(reply: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in reply.decode().splitlines())
    return {name: value for name, _, value in pairs}


def _run_in(facts: dict[str, str]) -> str:
    if "run_id" not in facts:
        raise StoreError("This server does not say which run it is in: INFO has no run_id.")
    return facts["run_id"]


def _shorten(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{name[: _LONGEST_NAME - len(digest) - 1]}#{digest}"


def _read_lease(reply: list[bytes]) -> Lease:
    match reply:
        case [b"hit", payload]:
            return Hit(payload)
        case [b"busy"]:
            return BUSY
        case [b"bypass", reason]:
            return Bypass("restart" if reason == b"restart" else "intent")
        case [b"miss", *vector]:
            return Miss(tuple(generation.decode() for generation in vector))
    raise StoreError("Redis gave an answer that no script of ours gives.")

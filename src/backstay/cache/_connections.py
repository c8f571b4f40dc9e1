"""A few connections to one Redis, each greeted before its first use, each call with a limit of its own.

redis-py makes the connections: addresses, TLS, passwords, replies. Its pool and client are left out: on a hit
they cost more than the round trip, and a connection has to be dropped whenever a reply may still be on its
way, or the next caller would read it. hiredis writes the commands, too: one of ten words takes 6 us in
Python, and 0.9 in C.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from backstay.cache._patience import Patience
from backstay.cache._store import StoreError

__all__ = ["Connections", "Reply"]

Reply = Any
_CONNECT_SECONDS: Final = 1.0


class Connections:
    """A pool that hands out the connection used last, and opens another while it may.

    Args:
        url: `redis://` or `rediss://`.
        limit: How many connections at the most.
        timeout_seconds: For one call, the wait for a connection included.
        greet: Called with each new connection, before anybody else uses it.
    """

    def __init__(
        self,
        url: str,
        *,
        limit: int,
        timeout_seconds: float,
        greet: Callable[[AbstractConnection], Awaitable[None]],
    ) -> None:
        self._url = url
        self._limit = limit
        self._timeout_seconds = timeout_seconds
        self._greet = greet
        self._idle: list[AbstractConnection] = []
        self._waiting: deque[asyncio.Future[AbstractConnection]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._count = 0

    async def call(self, *command: str | bytes | int, may_repeat: bool = False) -> Reply:
        """Send one command and return its reply.

        Args:
            command: Its words.
            may_repeat: Whether to send it again when the server has closed the connection: it may have been
                performed all the same.

        Raises:
            StoreError: No reply in time, or no connection.
            ResponseError: The server refused the command.
        """
        try:
            async with Patience(self._timeout_seconds):
                return await self._call(command, may_repeat=may_repeat)
        except TimeoutError as error:
            raise StoreError(f"Redis did not answer within {self._timeout_seconds:g} s.") from error

    async def _call(self, command: tuple[str | bytes | int, ...], *, may_repeat: bool) -> Reply:
        connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return await self._ask(connection, command)
            except StoreError:
                # The server closed it while it was idle, as after a restart; so it did with the others.
                await self._drop_idle()
                if not may_repeat:
                    raise
        return await self._ask(await self._wait_for_connection(), command)

    async def _ask(self, connection: AbstractConnection, command: tuple[str | bytes | int, ...]) -> Reply:
        try:
            reply = await ask(connection, *command)
        except ResponseError:
            self._give(connection)
            raise
        except (RedisError, OSError) as error:
            await self._drop(connection)
            raise StoreError(f"The connection to Redis was lost ({type(error).__name__}).") from error
        except BaseException:
            # A reply may still come: the connection is of no use to anybody else.
            await self._drop(connection)
            raise
        self._give(connection)
        return reply

    async def _wait_for_connection(self) -> AbstractConnection:
        if self._idle:
            return self._idle.pop()
        if self._count < self._limit:
            self._count += 1
            self._start_opening()
        place: asyncio.Future[AbstractConnection] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            return await place
        except BaseException:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._give(place.result())  # it came in the moment in which we gave up
            raise

    def _start_opening(self) -> None:
        # A task of its own: a handshake that takes longer than one call is there for the next.
        task = asyncio.create_task(self._open(), name="backstay.cache.connect")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        connection = make_connection(self._url)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
                await self._greet(connection)
        except Exception as error:  # noqa: BLE001  whatever it was, those who wait are told
            failure = StoreError(f"Redis cannot be reached ({type(error).__name__}).")
            failure.__cause__ = error
            self._fail_waiting(failure)
            await self._drop(connection)
        except BaseException:
            await self._drop(connection)
            raise
        else:
            self._give(connection)

    def _fail_waiting(self, error: StoreError) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)

    def _give(self, connection: AbstractConnection) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(connection)
                return
        self._idle.append(connection)

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await self._drop(connection)

    async def _drop(self, connection: AbstractConnection) -> None:
        self._count -= 1
        await connection.disconnect(nowait=True)
        if self._waiting and self._count < self._limit:
            self._count += 1
            self._start_opening()

    async def close(self) -> None:
        """Close all connections; whoever waits for one is told so."""
        self._fail_waiting(StoreError("The cache is closing."))
        for task in tuple(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        await self._drop_idle()


async def ask(connection: AbstractConnection, *command: str | bytes | int) -> Reply:
    """Send one command over one connection and return its reply."""
    packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stubs know tuples of one word
    await connection.send_packed_command(packed, check_health=False)
    return await connection.read_response()


def make_connection(url: str) -> AbstractConnection:
    """Return a connection that is not yet connected, without retries and time limits of its own."""
    options = dict(parse_url(url))
    kind = cast("type[AbstractConnection]", options.pop("connection_class", Connection))
    defaults: dict[str, Any] = {
        "protocol": 2,
        "driver_info": None,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": _CONNECT_SECONDS,
    }
    return kind(**{**defaults, **options})

"""How a value that is not in the cache is got: together with others, from a connection of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from itertools import count
from secrets import token_hex
from typing import Any, Final, NamedTuple

from backstay.cache._flights import may_use
from backstay.cache._payloads import CorruptPayloadError
from backstay.cache._protocol import Address, Fill, Load, Loaded, Pause, Step, fill
from backstay.cache._store import Hit, Miss, Store, StoreError
from backstay.deadline import seconds_left
from backstay.errors import DeadlineExceededError
from backstay.transaction import Carrier, Transaction

__all__ = ["Fetcher", "Request", "WasShared"]

_is_inside: ContextVar[bool] = ContextVar("backstay.cache.inside", default=False)


class Request(NamedTuple):
    """A read of one entry.

    Attributes:
        address: The entry.
        transaction: Of the session that asks; None for a function without one.
        load: Loads the value in the session that it is given.
        decode: Makes a value of a payload.
        jitter: So much of the entry's lifetime is taken off at random when it is filled.
    """

    address: Address
    transaction: Transaction | None
    load: Callable[[Carrier | None], Awaitable[Loaded]]
    decode: Callable[[bytes], Any]
    jitter: float = 0.0

    def with_jitter(self) -> Request:
        """Return the request for an entry that does not end when all others do."""
        share = 1 - self.jitter * random.random()  # noqa: S311  no secret
        lifetime_ms = max(1, int(self.address.lifetime_ms * share))
        return self._replace(address=self.address._replace(lifetime_ms=lifetime_ms))

    @property
    def holds_connection(self) -> bool:
        """Whether waiting for a connection could be waiting for oneself."""
        return _is_inside.get() or (self.transaction is not None and self.transaction.holds_connection)


class WasShared(NamedTuple):
    """A value that somebody else loaded or stored meanwhile."""

    value: Any


class _Flight:
    """A load that others may wait for."""

    def __init__(self, began: int) -> None:
        self.began = began
        self.asked = 0
        self.proved: int | None = None
        self.is_seated = False
        self.payload: bytes | None = None
        self.error: Exception | None = None
        self.has_landed: Final = asyncio.Event()


async def _wait_for(flight: _Flight) -> None:
    try:
        async with asyncio.timeout(seconds_left()):
            await flight.has_landed.wait()
    except TimeoutError as error:
        raise DeadlineExceededError from error


class Fetcher:
    """Loads values, each once for all who want it at the same time.

    Args:
        store: Where leases are taken and values are stored.
        on_failure: Called when the store does not answer.
    """

    def __init__(self, store: Store, *, on_failure: Callable[[], None]) -> None:
        self._store = store
        self._on_failure = on_failure
        self._flights: dict[str, _Flight] = {}
        self._next: Final = count(1).__next__

    def arrive(self) -> int:
        """Return the number of a read that begins now."""
        return self._next()

    async def fetch(self, request: Request, *, arrived: int) -> Loaded | WasShared:
        """Return the value, from a flight under way or from one of its own."""
        while (flight := self._flights.get(request.address.key)) is not None:
            if _is_inside.get() or (request.holds_connection and not flight.is_seated):
                return await self._fly(request, _Flight(self._next()))  # beside it
            await _wait_for(flight)
            if may_use(arrived=arrived, began=flight.began, proved=flight.proved):
                if flight.error is not None and not isinstance(flight.error, DeadlineExceededError):
                    raise flight.error
                if flight.payload is not None:
                    return WasShared(request.decode(flight.payload))
        return await self._lead(request)

    async def load_past_the_store(self, request: Request) -> Loaded:
        """Return the value as it is in the database, and store nothing."""
        return await self._load(request, _Flight(0))

    async def refresh(self, request: Request) -> None:
        """Load anew what is there, unless somebody else does; the old value stays until then."""
        request = request.with_jitter()
        key, tags, lifetime_ms = request.address
        # The lease of a key that holds nothing: the entry's own is not given while the entry is valid.
        token, aside = token_hex(8), f"{key}~refresh"
        lease = await self._store.lease(aside, tags, token=token, lifetime_ms=lifetime_ms)
        if not isinstance(lease, Miss):
            return
        try:
            loaded = await self._load(request, _Flight(0))
            if loaded.payload is not None and loaded.may_store:
                step = Fill(request.address, token, lease.vector, loaded.payload)
                await step.on(self._store)
        finally:
            await self._store.release(aside, token=token)

    async def _lead(self, request: Request) -> Loaded | WasShared:
        key, flight = request.address.key, _Flight(self._next())
        self._flights[key] = flight
        try:
            return await self._fly(request, flight)
        except Exception as error:
            flight.error = error
            raise
        finally:
            # Also when the leader is cancelled: whoever waits then sees nothing it may use, and leads.
            del self._flights[key]
            flight.has_landed.set()

    async def _fly(self, request: Request, flight: _Flight) -> Loaded | WasShared:
        request = request.with_jitter()
        result = await self._perform(
            fill(request.address, may_wait=not request.holds_connection), request, flight
        )
        if isinstance(result, Hit):
            try:
                value = request.decode(result.payload)
            except CorruptPayloadError:
                return await self._load(request, flight)
            flight.proved, flight.payload = flight.asked, result.payload
            return WasShared(value)
        flight.payload = result.payload
        if result.is_current:
            flight.proved = flight.asked
        return result

    async def _perform(
        self, steps: Generator[Step, Any, Loaded | Hit], request: Request, flight: _Flight
    ) -> Loaded | Hit:
        step = next(steps)
        while True:
            advance: Callable[[Any], Step]
            try:
                advance, argument = steps.send, await self._take(step, request, flight)
            except BaseException as error:  # noqa: BLE001  also a cancellation: the lease is given back first
                advance, argument = steps.throw, error
            try:
                step = advance(argument)
            except StopIteration as end:
                result: Loaded | Hit = end.value
                return result

    async def _take(self, step: Step, request: Request, flight: _Flight) -> Any:
        if isinstance(step, Load):
            return await self._load(request, flight)
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        flight.asked = self._next()
        try:
            return await step.on(self._store)  # type: ignore[union-attr]  # readers leave no notes
        except StoreError:
            self._on_failure()
            raise

    async def _load(self, request: Request, flight: _Flight) -> Loaded:
        transaction, may_wait = request.transaction, not request.holds_connection
        token = _is_inside.set(True)
        try:
            if transaction is None:
                flight.is_seated = True
                return await request.load(None)
            async with transaction.reader(may_wait=may_wait) as session:
                if session is not None:
                    flight.is_seated = True
                    return await request.load(session)
            async with transaction.beside() as session:
                loaded = await request.load(session)
                return loaded._replace(may_store=False)
        finally:
            _is_inside.reset(token)

"""`Cache`: what cached functions read through, and what takes part in each commit."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from secrets import token_hex
from typing import Any, Literal, NamedTuple

from backstay import events
from backstay.background import Supervisor
from backstay.cache._commits import OUTBOX_TOPIC, Commits, Outbox
from backstay.cache._fetching import Fetcher, Request, WasShared
from backstay.cache._memory import MemoryStore
from backstay.cache._payloads import CorruptPayloadError
from backstay.cache._protocol import Address
from backstay.cache._store import INTENT_LIFETIME, Store, StoreError
from backstay.errors import UsageError
from backstay.transaction import Outcome, Transaction

__all__ = ["OUTBOX_TOPIC", "Cache", "Label", "cache_variable", "current_cache"]

_logger = logging.getLogger("backstay.cache")


class Label(NamedTuple):
    """What events call a cached function by."""

    template: str
    tables: tuple[str, ...]


class Cache:
    """The coherent cache of one service.

    Give it to the database it caches for: `Database(settings, participants=(cache,))`.

    Args:
        store: Where values live.
        background: Runs what an answer need not wait for; without one, answers wait.
        is_strict: Whether a change that cannot be announced is refused, instead of noted in the outbox.
        max_value_bytes: A larger value is served, and not stored.
        raises_on_undeclared: Whether a read that `reads` does not declare is an error, instead of a log line.
        audit_rate: The share of hits that are compared with the database afterwards.
    """

    def __init__(  # noqa: PLR0913  all but the store have a default
        self,
        store: Store,
        *,
        background: Supervisor | None = None,
        is_strict: bool = False,
        max_value_bytes: int = 1024 * 1024,
        raises_on_undeclared: bool = True,
        audit_rate: float = 1e-4,
    ) -> None:
        self.store = store
        self.max_value_bytes = max_value_bytes
        self.raises_on_undeclared = raises_on_undeclared
        self.commits = Commits(store, is_strict=is_strict, background=background, on_failure=_report)
        self._background = background
        self._audit_rate = audit_rate
        self._refreshing: set[str] = set()
        self._fetcher = Fetcher(store, on_failure=lambda: _report("fill"))

    @property
    def commit_bound(self) -> timedelta | None:
        """How long a commit may take once it is announced; in memory the announcement lasts as long as it."""
        return None if isinstance(self.store, MemoryStore) else INTENT_LIFETIME / 3

    @property
    def outbox(self) -> Outbox | None:
        """What knows of changes that the store has not heard of; set by whoever relays them."""
        return self.commits.outbox

    @outbox.setter
    def outbox(self, outbox: Outbox) -> None:
        self.commits.outbox = outbox

    async def prepare(self, transaction: Transaction, tags: frozenset[str]) -> None:
        """Announce a commit."""
        await self.commits.prepare(transaction, tags)

    async def settle(self, transaction: Transaction, outcome: Outcome) -> None:
        """Tell how it ended."""
        await self.commits.settle(transaction, outcome)

    def prepare_blocking(self, transaction: Transaction, tags: frozenset[str]) -> None:
        """Announce a commit of blocking code."""
        self.commits.prepare_blocking(transaction, tags)

    def settle_blocking(self, transaction: Transaction, outcome: Outcome) -> None:
        """Tell how it ended."""
        self.commits.settle_blocking(transaction, outcome)

    async def read(
        self,
        address: Address,
        make_request: Callable[[], Request],
        *,
        decode: Callable[[bytes], Any],
        label: Label,
    ) -> Any:
        """Return a value that was the committed one at some moment between this call and its return.

        Args:
            address: Where it is.
            make_request: How it is loaded, when it is not there.
            decode: Makes a value of a payload.
            label: What events call it by.
        """
        outbox = self.commits.outbox
        if outbox is not None and outbox.is_behind:
            emit_bypass(label, "outbox")
            return (await self._fetcher.load_past_the_store(make_request())).value
        arrived = self._fetcher.arrive()
        payload = None
        try:
            payload = await self.store.read(address.key, address.tags)
        except StoreError:
            _report("read")
        if payload is not None:
            try:
                value = decode(payload)
            except CorruptPayloadError:
                await self._discard(address, label)
            else:
                if events.is_watched(events.CacheHit):
                    events.emit(events.CacheHit(template=label.template, tables=label.tables))
                if random.random() < self._audit_rate and self._background is not None:  # noqa: S311  no secret
                    audit = self._audit(make_request(), label, payload)
                    self._background.start(audit, name="backstay.cache.audit")
                return value
        return await self._fetch(make_request(), label, arrived)

    async def _discard(self, address: Address, label: Label) -> None:
        emit_refusal(label, "corrupt")
        _logger.warning("A stored value of %s cannot be read and is dropped.", label.template)
        try:
            await self.store.forget(address.tags[1:2], token=token_hex(8))
        except StoreError:
            _report("forget")

    async def _fetch(self, request: Request, label: Label, arrived: int) -> Any:
        result = await self._fetcher.fetch(request, arrived=arrived)
        if isinstance(result, WasShared):
            if events.is_watched(events.CacheShared):
                events.emit(events.CacheShared(template=label.template, tables=label.tables))
        elif events.is_watched(events.CacheMissed):
            missed = events.CacheMissed(
                template=label.template, tables=label.tables, is_stored=result.is_current
            )
            events.emit(missed)
        return result.value

    def refresh(self, request: Request) -> None:
        """Load a value anew in the background, unless somebody else does."""
        key = request.address.key
        if self._background is None or not self._background.is_open or key in self._refreshing:
            return
        self._refreshing.add(key)
        task = self._background.start(self._refresh(request), name="backstay.cache.refresh")
        task.add_done_callback(lambda _: self._refreshing.discard(key))

    async def _refresh(self, request: Request) -> None:
        try:
            await self._fetcher.refresh(request)
        except StoreError:
            _report("fill")  # the next caller tries again

    async def _audit(self, request: Request, label: Label, payload: bytes) -> None:
        """Compare a hit with the database; it is wrong only if the entry is still valid afterwards."""
        loaded = await self._fetcher.load_past_the_store(request)
        if loaded.payload == payload:
            return
        try:
            is_still_valid = await self.store.read(request.address.key, request.address.tags) == payload
        except StoreError:
            _report("read")
            return
        if is_still_valid:
            _logger.error("A valid entry of %s differs from the database.", label.template)
            events.emit(events.CacheIncoherent(template=label.template, tables=label.tables))

    def watch(self, has_changed: Callable[[], bool]) -> None:
        """Forget all values of this process whenever other processes have changed something.

        Raises:
            UsageError: The values are not this process's own.
        """
        if not isinstance(self.store, MemoryStore):
            raise UsageError("A cache that processes share needs no watch.")
        self.store.watch(has_changed)

    async def close(self) -> None:
        """Let go of the store."""
        await self.store.close()


def emit_bypass(label: Label, reason: Literal["changed", "isolated", "fresh", "outbox"]) -> None:
    """Tell that a value was loaded past the cache."""
    if events.is_watched(events.CacheBypassed):
        events.emit(events.CacheBypassed(template=label.template, tables=label.tables, reason=reason))


def emit_refusal(label: Label, reason: Literal["too_large", "unfaithful", "corrupt", "undeclared"]) -> None:
    """Tell that a value was not stored, or not read."""
    if events.is_watched(events.CacheValueRefused):
        events.emit(events.CacheValueRefused(template=label.template, tables=label.tables, reason=reason))


def _report(operation: str) -> None:
    if events.is_watched(events.CacheUnavailable):
        events.emit(events.CacheUnavailable(operation=operation))


cache_variable: ContextVar[Cache | None] = ContextVar("backstay.cache", default=None)


def current_cache() -> Cache:
    """Return the cache of the service that this request, command or test runs in.

    Raises:
        UsageError: There is none.
    """
    cache = cache_variable.get()
    if cache is None:
        raise UsageError(
            "There is no cache here: start the app's lifespan, or wrap the call in "
            "`async with open_runtime(Settings()):`."
        )
    return cache

"""How changes are announced to the store and settled: by transactions, and by what is no transaction."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final, Protocol, TypeVar, cast

from backstay import json
from backstay.background import Supervisor
from backstay.cache._memory import MemoryStore
from backstay.cache._protocol import Note, Step, prepare, settle
from backstay.cache._store import Store, StoreError
from backstay.errors import UnavailableError, UsageError
from backstay.transaction import Outcome, Transaction, unknown_rows_tag

__all__ = ["OUTBOX_TOPIC", "Commits", "Outbox"]

_logger = logging.getLogger("backstay.cache")

T = TypeVar("T")

OUTBOX_TOPIC: Final = "backstay.cache.forget"
"""Of the notes that wait in the outbox for a store that answers."""

_MOST_ROWS: Final = 100
# A COMMIT may be on its way to the server for so long after its connection broke.
_UNKNOWN_MS: Final = 120_000
_THREAD_SECONDS: Final = 5.0


class Outbox(Protocol):
    """What is known about changes that the store has not heard of."""

    @property
    def is_behind(self) -> bool:
        """Whether some are not delivered yet."""
        ...

    def expect(self) -> None:
        """Count as behind until somebody has looked."""
        ...


@dataclass(slots=True)
class _Announcement:
    """What was said that may change, and by whom."""

    tags: tuple[str, ...] = ()
    name: str = field(default_factory=lambda: token_hex(8))
    is_noted: bool = False


class Commits:
    """Announces commits and settles them.

    Args:
        store: Where it is announced.
        is_strict: Whether a change that cannot be announced is refused, instead of noted in the outbox.
        background: Runs what an answer need not wait for; without one, answers wait.
        on_failure: Called with what was tried when the store does not answer.
    """

    def __init__(
        self,
        store: Store,
        *,
        is_strict: bool,
        background: Supervisor | None,
        on_failure: Callable[[str], None],
    ) -> None:
        self.outbox: Outbox | None = None
        self._store = store
        self._is_strict = is_strict
        self._background = background
        self._on_failure = on_failure
        self._announcements: dict[Transaction, _Announcement] = {}
        self._loop = _find_loop()
        self._thread = threading.get_ident()

    async def prepare(self, transaction: Transaction, tags: frozenset[str]) -> None:
        """Announce a commit, or note it in the transaction's own outbox.

        Raises:
            UnavailableError: The store does not answer, and the cache is strict.
        """
        announcement = self._announce(transaction, tags)
        steps = prepare(announcement.tags, announcement.name, is_strict=self._is_strict)

        async def note(tags: Sequence[str]) -> None:
            self._expect(announcement)
            await transaction.note(OUTBOX_TOPIC, json.dumps(tags).decode())

        await self._perform(steps, note, failure="prepare")

    def _announce(self, transaction: Transaction, tags: frozenset[str]) -> _Announcement:
        announcement = self._announcements.setdefault(transaction, _Announcement())
        announcement.tags = _merge_rows(tags)
        return announcement

    def _expect(self, announcement: _Announcement) -> None:
        announcement.is_noted = True
        if self.outbox is not None:
            self.outbox.expect()

    async def settle(self, transaction: Transaction, outcome: Outcome) -> None:
        """Tell the store how it ended; in the background where that takes a round trip."""
        announcement = self._announcements.pop(transaction, None)
        if announcement is not None:
            await self._run_aside(self._settle(announcement, outcome))

    async def _settle(self, announcement: _Announcement, outcome: Outcome) -> None:
        if announcement.is_noted:
            self._expect(announcement)  # a look before the commit has not seen it
        if outcome is Outcome.UNKNOWN:
            self._let_end(announcement)
            return
        has_committed = outcome is Outcome.COMMITTED
        steps = settle(announcement.tags, announcement.name, has_committed=has_committed)
        await self._perform(steps, None, failure="settle")

    def _let_end(self, announcement: _Announcement) -> None:
        """Leave an intent to its deadline; one in memory, which has none, gets one."""
        if isinstance(self._store, MemoryStore):
            self._store.state.intend(
                announcement.tags, transaction=announcement.name, lifetime_ms=_UNKNOWN_MS
            )

    async def _run_aside(self, work: Coroutine[Any, Any, None]) -> None:
        if self._background is None or not self._background.is_open or isinstance(self._store, MemoryStore):
            await work
        else:
            self._background.start(work, name="backstay.cache.settle")

    async def _perform(
        self,
        steps: Generator[Step, Any, None],
        note: Callable[[Sequence[str]], Awaitable[None]] | None,
        *,
        failure: str,
    ) -> None:
        advance: Callable[[Any], Step] = steps.send
        argument: Any = None
        while True:
            try:
                step = advance(argument)
            except StopIteration:
                return
            try:
                advance, argument = steps.send, None
                if not isinstance(step, Note):
                    argument = await step.on(self._store)  # type: ignore[union-attr]  # writers load nothing
                elif note is not None:
                    await note(step.tags)
            except StoreError as error:
                self._on_failure(failure)
                advance, argument = steps.throw, error

    def prepare_blocking(self, transaction: Transaction, tags: frozenset[str]) -> None:
        """Announce a blocking commit: through the event loop from another thread, else by the outbox.

        Raises:
            UnavailableError: The store does not answer, and the cache is strict.
            UsageError: The cache is strict, and the event loop that speaks to its store is the one blocked.
        """
        announcement = self._announce(transaction, tags)
        steps = prepare(announcement.tags, announcement.name, is_strict=self._is_strict)
        if self._is_blocked:
            if self._is_strict:
                raise UsageError(
                    "A strict cache cannot be asked from the thread of its event loop: use "
                    "`database.transaction()`, or `asyncio.to_thread`."
                )
            self._expect(announcement)
            transaction.note_blocking(OUTBOX_TOPIC, json.dumps(announcement.tags).decode())
            return
        noted: list[Sequence[str]] = []

        async def note(tags: Sequence[str]) -> None:
            noted.append(tags)

        self._wait_for(self._perform(steps, note, failure="prepare"))
        if noted:
            self._expect(announcement)
            transaction.note_blocking(OUTBOX_TOPIC, json.dumps(announcement.tags).decode())

    def settle_blocking(self, transaction: Transaction, outcome: Outcome) -> None:
        """Tell the store how it ended."""
        announcement = self._announcements.pop(transaction, None)
        if announcement is None:
            return
        work = self._settle(announcement, outcome)
        if not self._is_blocked:
            self._wait_for(work)
        elif self._background is not None and self._background.is_open:
            self._background.start(work, name="backstay.cache.settle")
        else:
            work.close()  # the intent, if there is one, ends by itself; a note is delivered

    @property
    def _is_blocked(self) -> bool:
        """Whether the loop that speaks to the store waits for us."""
        return not isinstance(self._store, MemoryStore) and threading.get_ident() == self._thread

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None or threading.get_ident() == self._thread:
            return _run_at_once(work)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_THREAD_SECONDS)

    async def forget(self, tags: Iterable[str]) -> None:
        """Make what depends on these tags invalid now.

        Raises:
            UnavailableError: The store does not answer.
        """
        try:
            await self._store.forget(_merge_rows(tags), token=token_hex(8))
        except StoreError as error:
            self._on_failure("forget")
            raise UnavailableError("Cached values cannot be forgotten at the moment.") from error

    @asynccontextmanager
    async def announced(self, tags: Iterable[str]) -> AsyncIterator[None]:
        """Hold back hits and fills of these tags while the block changes something, then forget them.

        Raises:
            UnavailableError: The store does not answer; before the block when the cache is strict.
        """
        announcement = _Announcement(_merge_rows(tags))
        steps = prepare(announcement.tags, announcement.name, is_strict=self._is_strict)
        await self._perform(steps, None, failure="prepare")
        try:
            yield
        finally:
            try:
                await self._store.confirm(
                    announcement.tags, transaction=announcement.name, token=token_hex(8)
                )
            except StoreError:
                self._on_failure("forget")
                _logger.exception("Cached values may be stale: %s changed.", ", ".join(announcement.tags))

    async def deliver(self, payloads: Sequence[str]) -> None:
        """Forget what notes of the outbox name; raises when the store does not answer."""
        tags = {tag for payload in payloads for tag in cast("list[str]", json.loads(payload))}
        await self._store.forget(_merge_rows(tags), token=token_hex(8))


def _find_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _run_at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise UsageError("This store can only be asked where its event loop runs.")


def _merge_rows(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags without repetition; many rows of one table count as unknown rows of it."""
    rows: dict[str, list[str]] = {}
    merged: dict[str, None] = {}
    for tag in sorted(tags):
        table, is_row, _ = tag.partition(":")
        if is_row and table != _OWN:
            rows.setdefault(table, []).append(tag)
        else:
            merged[tag] = None
    for table, found in rows.items():
        merged.update(dict.fromkeys(found if len(found) <= _MOST_ROWS else (unknown_rows_tag(table),)))
    return tuple(merged)


_OWN: Final = "key"

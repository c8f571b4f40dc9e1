"""The state machine in memory: of one process, and of the explorer that drives it step by step."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from secrets import token_hex
from typing import Final, Literal, NamedTuple

from backstay.cache._store import (
    BUSY,
    EVERYTHING,
    INTENT_LIFETIME,
    LEASE_LIFETIME,
    RESTART,
    Bypass,
    Hit,
    Lease,
    Miss,
)

__all__ = ["MemoryState", "MemoryStore"]

_ENTRY_BYTES: Final = 400  # what an entry costs beside its key and payload; measured, rounded up
_TAG_BYTES: Final = 200
_LASTING_MS: Final = 3_600_000
_MANY_LEASES: Final = 4096
_TAG_SHARE: Final = 4  # tags may take one part in four


class _Held(NamedTuple):
    """A tag that transactions are about to change: it equals no generation, so it lets nothing through."""

    generation: str
    intents: dict[str, float]


class _Entry(NamedTuple):
    vector: tuple[str, ...]
    payload: bytes
    expires_at: float


class MemoryState:
    """Tags, entries and leases, bounded by bytes; what was not used for longest goes first.

    Args:
        max_bytes: For entries and tags together, estimated.
        clock: Seconds that never go back.
        quarantine_seconds: How long a restart holds back hits and fills.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        quarantine_seconds: float = INTENT_LIFETIME.total_seconds(),
    ) -> None:
        self._clock = clock
        self._quarantine_seconds = quarantine_seconds
        self._max_entry_bytes = max_bytes - max_bytes // _TAG_SHARE
        self._max_tag_bytes = max_bytes // _TAG_SHARE
        self.tags: dict[str, str | _Held] = {}
        self.entries: OrderedDict[str, _Entry] = OrderedDict()
        self.leases: dict[str, tuple[str, float]] = {}
        self.run: str | None = None
        self.entry_bytes = 0
        self.tag_bytes = 0

    def seed(self, token: str) -> None:
        """Begin with nothing lost: no quarantine."""
        self.tags[EVERYTHING] = token

    def hello(self, run: str, token: str) -> None:
        """Begin a quarantine when the store belongs to another run of the server."""
        if self.run != run:
            self.run = run
            self._quarantine(token)

    def _quarantine(self, token: str) -> _Held:
        held = _Held(token, {RESTART: self._clock() + self._quarantine_seconds})
        self.tags[EVERYTHING] = held
        return held

    def read(self, key: str, tags: Sequence[str]) -> bytes | None:
        """Return the payload of a valid entry."""
        entry = self.entries.get(key)
        if entry is None or entry.vector != tuple(map(self.tags.get, tags)):
            return None
        if entry.expires_at <= self._clock():
            self._drop_entry(key)
            return None
        self.entries.move_to_end(key)
        return entry.payload

    def lease(self, key: str, tags: Sequence[str], *, token: str, lifetime_ms: int) -> Lease:
        """Say what a reader without a hit is to do; generations are kept while there is room."""
        now = self._clock()
        states = [self._settle(tag, token, now) for tag in tags]
        if not all(isinstance(state, str) for state in states):
            return Bypass(self._name_obstacle(states[0]))
        payload = self.read(key, tags)
        if payload is not None:
            return Hit(payload)
        holder = self.leases.get(key)
        if holder is not None and holder[1] > now:
            return BUSY
        self._drop_old_leases(now)
        self.leases[key] = (token, now + LEASE_LIFETIME.total_seconds())
        self._evict()
        return Miss(tuple(map(str, states)))

    def _drop_old_leases(self, now: float) -> None:
        # Loads that were cut off leave theirs.
        if len(self.leases) >= _MANY_LEASES:
            self.leases = {key: lease for key, lease in self.leases.items() if lease[1] > now}

    def _settle(self, tag: str, token: str, now: float) -> str | _Held:
        """Return the state of a tag without intents that are over; they count as commits."""
        state = self.tags.get(tag)
        if state is None:
            return self._appear(tag, token)
        if isinstance(state, str) or all(deadline > now for deadline in state.intents.values()):
            return state
        live = {name: deadline for name, deadline in state.intents.items() if deadline > now}
        settled = _Held(token, live) if live else token
        self.tags[tag] = settled
        return settled

    def _appear(self, tag: str, token: str) -> str | _Held:
        if tag == EVERYTHING:
            return self._quarantine(token)
        self.tags[tag] = token
        self.tag_bytes += _TAG_BYTES + len(tag)
        return token

    @staticmethod
    def _name_obstacle(everything: str | _Held) -> Literal["intent", "restart"]:
        return "restart" if isinstance(everything, _Held) and RESTART in everything.intents else "intent"

    def fill(  # noqa: PLR0913  as in the protocol
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
        self.release(key, token=token)
        vector = tuple(vector)
        if vector != tuple(map(self.tags.get, tags)):
            return False
        self._drop_entry(key)
        self.entries[key] = _Entry(vector, payload, self._clock() + lifetime_ms / 1000)
        self.entry_bytes += _ENTRY_BYTES + len(key) + len(payload)
        self._evict()
        return True

    def release(self, key: str, *, token: str) -> None:
        """Give a lease back."""
        holder = self.leases.get(key)
        if holder is not None and holder[0] == token:
            del self.leases[key]

    def intend(self, tags: Iterable[str], *, transaction: str, lifetime_ms: int) -> None:
        """Hold back hits and fills of these tags."""
        now = self._clock()
        if EVERYTHING not in self.tags:
            self._quarantine(transaction)
        for tag in tags:
            state = self._settle(tag, transaction, now)
            held = state if isinstance(state, _Held) else _Held(state, {})
            self.tags[tag] = _Held(held.generation, {**held.intents, transaction: now + lifetime_ms / 1000})

    def confirm(self, tags: Iterable[str], *, transaction: str, token: str) -> int:
        """Give the tags new generations; return of how many the intent was still there."""
        return sum(self._end_intent(tag, transaction, token, has_changed=True) for tag in tags)

    def abort(self, tags: Iterable[str], *, transaction: str, token: str) -> None:
        """Remove the intents and nothing else."""
        for tag in tags:
            self._end_intent(tag, transaction, token, has_changed=False)

    def _end_intent(self, tag: str, transaction: str, token: str, *, has_changed: bool) -> bool:
        state = self._settle(tag, token, self._clock())
        if isinstance(state, str):
            if has_changed:
                self.tags[tag] = token
            return False
        others = {name: deadline for name, deadline in state.intents.items() if name != transaction}
        generation = token if has_changed else state.generation
        self.tags[tag] = _Held(generation, others) if others else generation
        return transaction in state.intents

    def clear(self, token: str) -> None:
        """Forget all values; the intents stay."""
        self.entries.clear()
        self.entry_bytes = 0
        self.forget((EVERYTHING,), token=token)

    def forget(self, tags: Iterable[str], *, token: str) -> None:
        """Give the tags new generations."""
        self.confirm(tags, transaction="", token=token)

    def _drop_entry(self, key: str) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.entry_bytes -= _ENTRY_BYTES + len(key) + len(entry.payload)

    def _evict(self) -> None:
        while self.entry_bytes > self._max_entry_bytes:
            self._drop_entry(next(iter(self.entries)))
        if self.tag_bytes > self._max_tag_bytes:
            self._evict_tags()

    def _evict_tags(self) -> None:
        # Half of them at once: looking for tags without intents costs a walk.
        idle = [tag for tag, state in self.tags.items() if isinstance(state, str) and tag != EVERYTHING]
        for tag in idle[: max(1, len(idle) // 2)]:
            del self.tags[tag]
            self.tag_bytes -= _TAG_BYTES + len(tag)


class MemoryStore:
    """The state machine as a store of this process; it always answers.

    Args:
        max_bytes: For entries and tags together.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.state = MemoryState(max_bytes=max_bytes)
        self.state.seed(token_hex(8))
        self._has_changed: Callable[[], bool] | None = None

    def watch(self, has_changed: Callable[[], bool]) -> None:
        """Forget all values whenever `has_changed()` says so: other processes write the same database."""
        self._has_changed = has_changed

    def _look_around(self) -> None:
        if self._has_changed is not None and self._has_changed():
            self.state.clear(token_hex(8))

    async def read(self, key: str, tags: Sequence[str]) -> bytes | None:
        """Return the payload of a valid entry."""
        self._look_around()
        return self.state.read(key, tags)

    async def lease(self, key: str, tags: Sequence[str], *, token: str, lifetime_ms: int) -> Lease:
        """Say what a reader without a hit is to do."""
        self._look_around()
        return self.state.lease(key, tags, token=token, lifetime_ms=lifetime_ms)

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
        self._look_around()
        return self.state.fill(
            key, tags, vector=vector, payload=payload, token=token, lifetime_ms=lifetime_ms
        )

    async def release(self, key: str, *, token: str) -> None:
        """Give a lease back."""
        self.state.release(key, token=token)

    async def intend(self, tags: Sequence[str], *, transaction: str, lifetime_ms: int) -> None:
        """Hold back hits and fills of these tags.

        Who announces lives as long as this store, so an announcement may last: no commit can outlive it.
        """
        self.state.intend(tags, transaction=transaction, lifetime_ms=max(lifetime_ms, _LASTING_MS))

    async def confirm(self, tags: Sequence[str], *, transaction: str, token: str) -> int:
        """Give the tags new generations; return of how many the intent was still there."""
        return self.state.confirm(tags, transaction=transaction, token=token)

    async def abort(self, tags: Sequence[str], *, transaction: str, token: str) -> None:
        """Remove the intents; the entries stay valid."""
        self.state.abort(tags, transaction=transaction, token=token)

    async def forget(self, tags: Sequence[str], *, token: str) -> None:
        """Give the tags new generations."""
        self.state.forget(tags, token=token)

    async def close(self) -> None:
        """Do nothing: the state goes with the process."""

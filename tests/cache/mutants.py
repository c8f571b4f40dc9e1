"""The protocol with one piece taken out, once for each piece: what the explorer must notice."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

from backstay.cache._memory import MemoryState, _Entry, _Held
from backstay.cache._protocol import Intend
from backstay.cache._store import StoreError
from cache_explorer import SCENARIOS, Parts, Scenario


def prepare_silently(tags: Sequence[str], transaction: str, *, is_strict: bool) -> Generator[Any, Any, None]:
    """No intent."""
    yield from ()


def prepare_without_a_note(
    tags: Sequence[str], transaction: str, *, is_strict: bool
) -> Generator[Any, Any, None]:
    """No outbox."""
    try:
        yield Intend(tags, transaction)
    except StoreError:
        return


class IntentsDoNotBlockHits(MemoryState):
    def read(self, key: str, tags: Sequence[str]) -> bytes | None:
        entry = self.entries.get(key)
        states = tuple(map(self.tags.get, tags))
        generations = tuple(state.generation if isinstance(state, _Held) else state for state in states)
        return entry.payload if entry is not None and entry.vector == generations else None


class ConfirmChangesNothing(MemoryState):
    def confirm(self, tags: Iterable[str], *, transaction: str, token: str) -> int:
        self.abort(tags, transaction=transaction, token=token)
        return 0


class FillAsksNothing(MemoryState):
    def fill(
        self,
        key: str,
        tags: Sequence[str],
        *,
        vector: Sequence[str],
        payload: bytes,
        token: str,
        lifetime_ms: int,
    ) -> bool:
        self.release(key, token=token)
        states = [self.tags.get(tag) for tag in tags]
        if not all(isinstance(state, str) for state in states):
            return False
        self.entries[key] = _Entry(tuple(map(str, states)), payload, self._clock() + lifetime_ms / 1000)
        return True


class ExpiredIntentsAreDropped(MemoryState):
    def _settle(self, tag: str, token: str, now: float) -> str | _Held:
        state = self.tags.get(tag)
        if not isinstance(state, _Held):
            return super()._settle(tag, token, now)
        live = {name: deadline for name, deadline in state.intents.items() if deadline > now}
        settled = _Held(state.generation, live) if live else state.generation
        self.tags[tag] = settled
        return settled


class NoEpoch(MemoryState):
    def hello(self, run: str, token: str) -> None:
        self.tags.setdefault("*", "for ever")


class NoQuarantine(MemoryState):
    def hello(self, run: str, token: str) -> None:
        if self.run != run:
            self.run = run
            self.tags["*"] = token


def use_what_was_filled(*, arrived: int, began: int, proved: int | None) -> bool:
    """Whether the value was current at the end: no question of when the passenger came."""
    return began > arrived or proved is not None


def use_always(*, arrived: int, began: int, proved: int | None) -> bool:
    return True


MUTANTS: dict[str, tuple[Scenario, Parts]] = {
    "no intent": (SCENARIOS["plain"], Parts(prepare=prepare_silently)),
    "a live intent does not block hits": (SCENARIOS["plain"], Parts(state=IntentsDoNotBlockHits)),
    "no new generation at the confirmation": (SCENARIOS["plain"], Parts(state=ConfirmChangesNothing)),
    "no check at the fill": (SCENARIOS["plain"], Parts(state=FillAsksNothing)),
    "expired intents are dropped": (SCENARIOS["crash"], Parts(state=ExpiredIntentsAreDropped)),
    "no epoch": (SCENARIOS["restored from a snapshot"], Parts(state=NoEpoch)),
    "no quarantine": (SCENARIOS["restored from a snapshot"], Parts(state=NoQuarantine)),
    "the value is read before the lease": (SCENARIOS["plain"], Parts(loads_before_lease=True)),
    "passengers take whatever comes": (SCENARIOS["plain"], Parts(may_use=use_always)),
    "passengers take what was stored before they came": (
        SCENARIOS["plain"],
        Parts(may_use=use_what_was_filled),
    ),
}
WITHOUT_OUTBOX = Parts(prepare=prepare_without_a_note)

"""The protocol of a coherent cache, as steps: intent, commit, confirm; look, lease, load, fill.

Each function is a generator. It yields one step, is sent that step's answer, and does nothing in between. The
cache performs the steps on a real store; the explorer of the tests performs them on the state machine in
memory, in every order it can think of, and loses, delays and repeats them. So what is explored is what runs.

Why it holds, and what each step is there for, is in docs/concepts/coherence.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Sequence
from secrets import token_hex
from typing import Any, Final, NamedTuple, Protocol

from backstay.cache._store import BUSY, INTENT_LIFETIME, Hit, Lease, Miss, Store, StoreError
from backstay.errors import UnavailableError

__all__ = [
    "Abort",
    "Address",
    "Confirm",
    "Fill",
    "Forget",
    "Intend",
    "Load",
    "Loaded",
    "Note",
    "Operation",
    "Pause",
    "Read",
    "Release",
    "Step",
    "TakeLease",
    "fill",
    "prepare",
    "settle",
]

_INTENT_MS: Final = int(INTENT_LIFETIME.total_seconds() * 1000)
_PAUSES: Final = (0.002, 0.004, 0.008, 0.016, 0.032, *(0.04,) * 24)


class Address(NamedTuple):
    """An entry, what it depends on, and how long it lives."""

    key: str
    tags: tuple[str, ...]
    lifetime_ms: int


class Operation(Protocol):
    """A step that a store performs."""

    def on(self, store: Store) -> Awaitable[Any]:
        """Perform it."""
        ...


class Read(NamedTuple):
    """Look for a valid entry."""

    key: str
    tags: tuple[str, ...]

    def on(self, store: Store) -> Awaitable[bytes | None]:
        """Perform it."""
        return store.read(self.key, self.tags)


class TakeLease(NamedTuple):
    """Ask what a reader without a hit is to do."""

    address: Address
    token: str

    def on(self, store: Store) -> Awaitable[Lease]:
        """Perform it."""
        key, tags, lifetime_ms = self.address
        return store.lease(key, tags, token=self.token, lifetime_ms=lifetime_ms)


class Fill(NamedTuple):
    """Store what was loaded, if nothing has changed since the lease."""

    address: Address
    token: str
    vector: tuple[str, ...]
    payload: bytes

    def on(self, store: Store) -> Awaitable[bool]:
        """Perform it."""
        key, tags, lifetime_ms = self.address
        return store.fill(
            key, tags, vector=self.vector, payload=self.payload, token=self.token, lifetime_ms=lifetime_ms
        )


class Release(NamedTuple):
    """Give a lease back without a value."""

    key: str
    token: str

    def on(self, store: Store) -> Awaitable[None]:
        """Perform it."""
        return store.release(self.key, token=self.token)


class Intend(NamedTuple):
    """Say that a transaction is about to commit."""

    tags: Sequence[str]
    transaction: str

    def on(self, store: Store) -> Awaitable[None]:
        """Perform it."""
        return store.intend(self.tags, transaction=self.transaction, lifetime_ms=_INTENT_MS)


class Confirm(NamedTuple):
    """Say that it has committed, or may have."""

    tags: Sequence[str]
    transaction: str
    token: str

    def on(self, store: Store) -> Awaitable[int]:
        """Perform it."""
        return store.confirm(self.tags, transaction=self.transaction, token=self.token)


class Abort(NamedTuple):
    """Say that it has certainly not committed."""

    tags: Sequence[str]
    transaction: str
    token: str

    def on(self, store: Store) -> Awaitable[None]:
        """Perform it."""
        return store.abort(self.tags, transaction=self.transaction, token=self.token)


class Forget(NamedTuple):
    """Make what depends on these tags invalid."""

    tags: Sequence[str]
    token: str

    def on(self, store: Store) -> Awaitable[None]:
        """Perform it."""
        return store.forget(self.tags, token=self.token)


class Load(NamedTuple):
    """Load the value, in a session that was opened after this step was reached."""


class Pause(NamedTuple):
    """Wait for whoever loads."""

    seconds: float


class Note(NamedTuple):
    """Write the tags into the transaction's own outbox: they are forgotten as soon as the store answers."""

    tags: Sequence[str]


Step = (
    Read | TakeLease | Fill | Release | Intend | Confirm | Abort | Forget | Load | Pause | Note
)  # each driver performs all of them


class Loaded(NamedTuple):
    """A value, and what is known about it."""

    value: Any
    payload: bytes | None
    """Its encoded form; None when it has none."""
    may_store: bool = True
    """Whether it may be stored."""
    is_current: bool = False
    """Whether it was the committed value at the moment in which the load ended, for everybody."""


def fill(address: Address, *, may_wait: bool = True) -> Generator[Step, Any, Loaded | Hit]:
    """Get a value that was not there: from the database, or from whoever was faster.

    Args:
        address: The entry.
        may_wait: Whether to wait for somebody else who loads it; else load beside them.

    Returns:
        What was loaded, or the entry that somebody else has stored meanwhile.
    """
    lease, token = yield from _take_lease(address, may_wait=may_wait)
    if isinstance(lease, Hit):
        return lease
    if not isinstance(lease, Miss):
        loaded: Loaded = yield Load()
        return loaded
    return (yield from _load_and_fill(address, token, lease.vector))


def _take_lease(address: Address, *, may_wait: bool) -> Generator[Step, Any, tuple[Lease | None, str]]:
    """Ask until the answer is not that somebody else loads; each time with another token."""
    token = token_hex(8)
    try:
        lease: Lease = yield TakeLease(address, token)
        for seconds in _PAUSES if may_wait else ():
            if lease is not BUSY:
                break
            yield Pause(seconds)
            token = token_hex(8)
            lease = yield TakeLease(address, token)
    except StoreError:
        return None, token
    return lease, token


def _load_and_fill(address: Address, token: str, vector: tuple[str, ...]) -> Generator[Step, Any, Loaded]:
    try:
        loaded: Loaded = yield Load()
    except GeneratorExit:
        raise
    except BaseException:
        yield from _release(address.key, token)
        raise
    if loaded.payload is None or not loaded.may_store:
        yield from _release(address.key, token)
        return loaded
    try:
        is_current: bool = yield Fill(address, token, vector, loaded.payload)
    except StoreError:
        return loaded
    return loaded._replace(is_current=is_current)


def _release(key: str, token: str) -> Generator[Step, Any, None]:
    try:
        yield Release(key, token)
    except StoreError:
        return  # it ends by itself


def prepare(tags: Sequence[str], transaction: str, *, is_strict: bool) -> Generator[Step, Any, None]:
    """Announce a commit: nobody gets or stores what it may change until it is settled.

    Raises:
        UnavailableError: The store does not answer, and no commit may go unannounced.
    """
    try:
        yield Intend(tags, transaction)
    except StoreError as error:
        if is_strict:
            raise UnavailableError("Changes cannot be saved at the moment.") from error
        yield Note(tags)


def settle(tags: Sequence[str], transaction: str, *, has_committed: bool) -> Generator[Step, Any, None]:
    """Tell how it ended. When that gets lost, the intent ends by itself, as if it had committed.

    Args:
        tags: What was announced.
        transaction: Its name.
        has_committed: Whether it has, or may have.
    """
    step = Confirm if has_committed else Abort
    try:
        yield step(tags, transaction, token_hex(8))
    except StoreError:
        return

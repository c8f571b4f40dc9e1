"""What the protocol asks of a store, and what it is answered.

The state is the same in every engine, and all that a restart or an eviction can take from it is allowed to
go missing:

    tags      tag -> generation, and the intents of transactions that may commit until their deadline
    entries   key -> the generations of its tags when it was filled, and the payload
    leases    key -> the token of whoever loads it
    run       which run of the server the tag `*` belongs to

Every entry depends on the tag `*`. When it is missing, or the server is not the one that `run` names, the
store may have lost intents: `*` gets a new generation and an intent of its own that holds back hits and fills
for as long as a lost one could. That is the quarantine.

A generation is a random token, used once. So a tag that was evicted comes back with a generation that no
entry has, and nothing old becomes valid again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from typing import Final, Literal, NamedTuple, Protocol

from backstay.errors import BackstayError

__all__ = [
    "BUSY",
    "EVERYTHING",
    "INTENT_LIFETIME",
    "LEASE_LIFETIME",
    "RESTART",
    "TAG_LIFETIME",
    "Busy",
    "Bypass",
    "Hit",
    "Lease",
    "Miss",
    "Store",
    "StoreError",
]

EVERYTHING: Final = "*"
"""The tag that every entry depends on."""

RESTART: Final = "restart"
"""The name of the intent that is the quarantine."""

INTENT_LIFETIME: Final = timedelta(seconds=15)
"""How long a transaction may take from its intent to its commit; and how long a quarantine lasts."""

LEASE_LIFETIME: Final = timedelta(seconds=3)
"""How long others wait at the most for whoever loads."""

TAG_LIFETIME: Final = timedelta(hours=1)
"""How long a generation is kept at the least; longer where entries live longer."""


class StoreError(BackstayError):
    """The store did not answer in time, or with an error; whether it did what it was asked is open."""


class Hit(NamedTuple):
    """The entry is valid."""

    payload: bytes


class Miss(NamedTuple):
    """There is no valid entry, and the asker holds the lease: it loads, and fills with this vector."""

    vector: tuple[str, ...]
    """The generations of the tags, in their order."""


class Bypass(NamedTuple):
    """Load, and do not store."""

    reason: Literal["intent", "restart"]
    """A transaction is about to commit, or the store may have lost intents."""


class Busy(Enum):
    """Somebody else loads."""

    BUSY = "busy"


BUSY: Final = Busy.BUSY
Lease = Hit | Miss | Bypass | Literal[Busy.BUSY]


class Store(Protocol):
    """One engine. Each call is atomic; one without an answer raises `StoreError`.

    What takes a `token` is not to be repeated with the same one.

    The first of `tags` is always `*`, where a reader gives them.
    """

    async def read(self, key: str, tags: Sequence[str]) -> bytes | None:
        """Return the payload of a valid entry; None when there is none or it is not to be used now."""
        ...

    async def lease(self, key: str, tags: Sequence[str], *, token: str, lifetime_ms: int) -> Lease:
        """Settle expired intents, give missing tags a generation, and say what to do.

        Args:
            key: The entry.
            tags: What it depends on.
            token: Never used before: of the lease, and for new generations.
            lifetime_ms: How long the entry will live; its tags are kept twice as long.
        """
        ...

    async def fill(  # noqa: PLR0913  each is a part of one statement
        self,
        key: str,
        tags: Sequence[str],
        *,
        vector: Sequence[str],
        payload: bytes,
        token: str,
        lifetime_ms: int,
    ) -> bool:
        """Store the payload if no tag has changed since the lease; return whether it was stored."""
        ...

    async def release(self, key: str, *, token: str) -> None:
        """Give a lease back without a value."""
        ...

    async def intend(self, tags: Sequence[str], *, transaction: str, lifetime_ms: int) -> None:
        """Hold back hits and fills of these tags until the transaction is settled, or the time is over."""
        ...

    async def confirm(self, tags: Sequence[str], *, transaction: str, token: str) -> int:
        """Give the tags new generations and remove the transaction's intents.

        Returns:
            Of how many tags the intent was still there.
        """
        ...

    async def abort(self, tags: Sequence[str], *, transaction: str, token: str) -> None:
        """Remove the transaction's intents; the entries stay valid."""
        ...

    async def forget(self, tags: Sequence[str], *, token: str) -> None:
        """Give the tags new generations."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...

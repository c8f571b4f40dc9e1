"""The keystone's face of a session that only reads: nothing to commit, and readers beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from backstay.errors import ReadOnlySessionError
from backstay.transaction import Participant, Transaction

__all__ = ["ReaderSource", "ReadingTransaction"]


class ReaderSource(Protocol):
    """Where readers come from: the database."""

    participants: tuple[Participant, ...]

    def spare_reader(self, *, may_wait: bool) -> Any:  # an async context manager of AsyncSession | None
        """Open a reading session when a connection is free at once, or when it is one's turn."""
        ...

    def reading(self) -> Any:  # an async context manager of AsyncSession
        """Open a session that only reads."""
        ...

    def reading_session_on(self, connection: AsyncConnection, transaction: Transaction) -> AsyncSession:
        """Return a reading session on a connection that somebody else holds."""
        ...


class ReadingTransaction(Transaction):
    """What a reading session has instead of a transaction: each of its statements stands alone."""

    def __init__(self, carrier: AsyncSession, owner: ReaderSource) -> None:
        self.carrier = carrier
        self.owner = owner

    @property
    def writes(self) -> set[str]:
        """Nothing."""
        return set()

    @property
    def changed(self) -> bool:
        """Whether it holds changes: never."""
        return False

    @property
    def isolated(self) -> bool:
        """Whether it reads from a snapshot: never."""
        return False

    @property
    def holds_connection(self) -> bool:
        """Whether a connection is checked out."""
        return self.carrier.in_transaction()

    @property
    def participants(self) -> Sequence[Participant]:
        """What takes part in the commits of the database."""
        return self.owner.participants

    @asynccontextmanager
    async def reader(self, *, may_wait: bool = False) -> AsyncIterator[AsyncSession | None]:
        """Open another reading session, or None when no connection is free."""
        async with self.owner.spare_reader(may_wait=may_wait) as session:
            yield session

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[AsyncSession]:
        """Open a session with an empty identity map on this session's connection."""
        async with self.owner.reading_session_on(await self.carrier.connection(), self) as session:
            yield session

    async def note(self, topic: str, payload: str) -> NoReturn:
        """Refuse."""
        raise ReadOnlySessionError(_REFUSAL)

    def note_blocking(self, topic: str, payload: str) -> NoReturn:
        """Refuse."""
        raise ReadOnlySessionError(_REFUSAL)

    def after_commit(self, call: Callable[..., object | Awaitable[object]], *args: object) -> NoReturn:
        """Refuse."""
        raise ReadOnlySessionError(_REFUSAL)


_REFUSAL = "This session only reads, so no commit follows: use SessionDep or `database.transaction()`."

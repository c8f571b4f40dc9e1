"""The relay: it does the work that transactions left in the outbox, in every worker, at least once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db.database import Database
from backstay.db.outbox import find_any, find_notes, remove_notes

__all__ = ["Deliver", "Relay"]

_logger = logging.getLogger("backstay.db")

Deliver: TypeAlias = Callable[[Sequence[str]], Awaitable[None]]
"""Does the work of these payloads, oldest first; it is done again when it raises or the process dies."""


class Relay:
    """Hands the payloads of the outbox to whoever does their work.

    A worker that dies between doing the work and removing its rows leaves it to be done again: what is
    delivered must bear that. A topic that fails is tried again at the next look and holds up no other one.

    Args:
        database: Whose outbox it is; the table must exist.
        handlers: Who does the work of each topic; other topics are left alone.
        interval: How long to wait between two looks.
        limit: How long one delivery may take.
        batch: How many rows are delivered at once.
    """

    def __init__(
        self,
        database: Database,
        handlers: Mapping[str, Deliver],
        *,
        interval: timedelta = timedelta(seconds=1),
        limit: timedelta = timedelta(seconds=10),
        batch: int = 100,
    ) -> None:
        self._database = database
        self._handlers = dict(handlers)
        self._interval_seconds = interval.total_seconds()
        self._limit_seconds = limit.total_seconds()
        self._batch = batch
        self._is_behind = True
        self._is_expecting = False

    @property
    def is_behind(self) -> bool:
        """Whether work was left at the last look; also before the first one, and when it failed.

        Costs nothing, and may be as old as the interval.
        """
        return self._is_behind or self._is_expecting

    def expect(self) -> None:
        """Count as behind until a look that begins after now; for who knows of work before it is found."""
        self._is_expecting = True

    async def outstanding(self) -> bool:
        """Look whether work is left: one query that reads at most one row."""
        async with self._database.reading() as session:
            return bool(await session.scalar(find_any(list(self._handlers))))

    async def run(self) -> None:
        """Look and deliver for as long as the task lives; errors are logged."""
        while True:
            await self.look()
            await asyncio.sleep(self._interval_seconds)

    async def look(self) -> None:
        """Look once, and deliver until nothing is left that can be."""
        self._is_expecting = False
        try:
            self._is_behind = await self.outstanding()
            while self._is_behind and await self._deliver_all():
                self._is_behind = await self.outstanding()
        except Exception:
            # Nobody knows what the others have left meanwhile.
            self._is_behind = True
            _logger.exception("The outbox could not be looked at.")

    async def _deliver_all(self) -> bool:
        """Deliver one batch of each topic; return whether anything was."""
        return any([await self._deliver_safely(topic) for topic in self._handlers])

    async def _deliver_safely(self, topic: str) -> bool:
        try:
            return await self._deliver(topic)
        except Exception:
            _logger.exception("The work of topic %r in the outbox failed and will be tried again.", topic)
            return False

    async def _deliver(self, topic: str) -> bool:
        async with self._taken(topic) as notes:
            if notes:
                async with asyncio.timeout(self._limit_seconds):
                    await self._handlers[topic]([payload for _, payload in notes])
        return bool(notes)

    @asynccontextmanager
    async def _taken(self, topic: str) -> AsyncIterator[Sequence[tuple[UUID, str]]]:
        """Give a batch, and remove it unless the block raises."""
        if self._database.is_postgresql:
            async with self._database.transaction() as session:
                notes = await self._find(session, topic)
                yield notes
                await self._remove(session, notes)
            return
        # SQLite would lock the whole database while the work is done: here two workers may do the same.
        async with self._database.reading() as session:
            notes = await self._find(session, topic)
        yield notes
        async with self._database.transaction() as session:
            await self._remove(session, notes)

    async def _find(self, session: AsyncSession, topic: str) -> Sequence[tuple[UUID, str]]:
        return [(row.id, row.payload) for row in await session.execute(find_notes(topic, limit=self._batch))]

    async def _remove(self, session: AsyncSession, notes: Sequence[tuple[UUID, str]]) -> None:
        if notes:
            await session.execute(remove_notes([identifier for identifier, _ in notes]))

"""Tokens that work once: to reset a password, to verify an address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db.database import Database
from backstay.db.tokens._making import TokenMaker, utc_now
from backstay.db.tokens._sweeping import sweep_rows
from backstay.db.tokens._tables import one_time_token_table

__all__ = ["OneTimeTokens", "Taken"]

_COLUMNS: Final = one_time_token_table.c


@dataclass(frozen=True, slots=True)
class Taken:
    """What a token was good for.

    Attributes:
        subject: Whose it was.
        bound_to: What it was issued against; when that has changed since, the token is worth nothing.
    """

    subject: str
    bound_to: str


class OneTimeTokens:
    """The one-time tokens of one database.

    Args:
        database: Where they are.
        maker: Makes them.
        clock: The present.
    """

    def __init__(
        self, database: Database, maker: TokenMaker, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._maker = maker
        self._clock = clock

    async def issue(
        self, session: AsyncSession, *, purpose: str, subject: str, bound_to: str, ttl: timedelta
    ) -> str:
        """Return a new token; earlier ones stay good, or anybody could void somebody else's.

        Args:
            session: Its transaction stores the token's digest.
            purpose: What for, in a word of at most 32 characters; it is of no use for anything else.
            subject: Whose it is.
            bound_to: A fingerprint, of at most 64 characters, of what it is issued against: the password
                that it replaces, the address that it verifies.
            ttl: For how long it is good.
        """
        token, now = self._maker.new_token(), self._clock()
        await session.execute(
            sa.insert(one_time_token_table).values(
                digest=self._maker.hash_token(token),
                purpose=purpose,
                subject=subject,
                bound_to=bound_to,
                created_at=now,
                expires_at=now + ttl,
            )
        )
        return token

    async def take(self, session: AsyncSession, *, purpose: str, token: str) -> Taken | None:
        """Return what a token is good for, once; None when it is used, expired, for something else, or none.

        Of two that take it at once one waits for the end of the other, and gets it if that one rolls back.
        """
        now = self._clock()
        is_it = (_COLUMNS.digest == self._maker.hash_token(token)) & (_COLUMNS.purpose == purpose)
        is_good = _COLUMNS.used_at.is_(None) & (_COLUMNS.expires_at > now)
        statement = sa.update(one_time_token_table).where(is_it, is_good).values(used_at=now)
        found = await session.execute(statement.returning(_COLUMNS.subject, _COLUMNS.bound_to))
        row = found.one_or_none()
        return None if row is None else Taken(row.subject, row.bound_to)

    async def sweep(self) -> bool:
        """Delete a batch of those that have expired; return whether more may be left."""
        is_over = _COLUMNS.expires_at <= self._clock()
        return await sweep_rows(self._database, _COLUMNS.digest, is_over=is_over, oldest=_COLUMNS.expires_at)

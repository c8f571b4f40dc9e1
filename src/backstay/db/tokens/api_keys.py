"""API keys, as rows: who they belong to, what they may do, until when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db.tokens._making import utc_now
from backstay.db.tokens._tables import api_key_table

__all__ = ["ApiKeyRecord", "ApiKeys"]

_COLUMNS: Final = api_key_table.c


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """An API key without its secret.

    Attributes:
        key_id: What it is found by; its owner sees it.
        subject: Whose rights it has.
        name: What its owner calls it.
        scopes: What it may do.
        digest: Of the whole key.
        created_at: When it was made.
        expires_at: When it ends; None for never.
        revoked_at: When it was ended before; None when it was not.
    """

    key_id: str
    subject: str
    name: str
    scopes: frozenset[str]
    digest: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_live(self, now: datetime) -> bool:
        """Return whether it lets its bearer in."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class ApiKeys:
    """The API keys of one database.

    Args:
        clock: The present.
    """

    def __init__(self, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock

    async def add(  # noqa: PLR0913  one for each column
        self,
        session: AsyncSession,
        *,
        key_id: str,
        digest: str,
        subject: str,
        name: str,
        scopes: Iterable[str],
        expires_at: datetime | None = None,
    ) -> ApiKeyRecord:
        """Store a key that was just made.

        Args:
            session: Its transaction stores the row.
            key_id: Of the new key.
            digest: Of the new key.
            subject: Whose rights it has.
            name: What its owner calls it; at most 255 characters.
            scopes: What it may do.
            expires_at: When it ends; None for never.
        """
        record = ApiKeyRecord(
            key_id, subject, name, frozenset(scopes), digest, self._clock(), expires_at, revoked_at=None
        )
        await session.execute(
            sa.insert(api_key_table).values(
                key_id=key_id,
                subject=subject,
                name=name,
                scopes=sorted(record.scopes),
                digest=digest,
                created_at=record.created_at,
                expires_at=expires_at,
            )
        )
        return record

    async def find(self, session: AsyncSession, key_id: str) -> ApiKeyRecord | None:
        """Return a key, also one that has ended; None when there is none.

        Whoever compares the digest uses `secrets.compare_digest`.
        """
        row = (await session.execute(_FIND, {"wanted": key_id})).one_or_none()
        return None if row is None else _to_record(row)

    async def list(self, session: AsyncSession, subject: str) -> tuple[ApiKeyRecord, ...]:
        """Return the keys of one owner, newest first, also those that have ended."""
        statement = sa.select(api_key_table).where(_COLUMNS.subject == subject)
        rows = await session.execute(statement.order_by(_COLUMNS.created_at.desc(), _COLUMNS.key_id))
        return tuple(map(_to_record, rows))

    async def revoke(self, session: AsyncSession, key_id: str, *, subject: str | None = None) -> bool:
        """End a key; return whether there was one to end.

        Args:
            session: Its transaction ends it.
            key_id: Which.
            subject: Whose it has to be; anybody's when None.
        """
        statement = sa.update(api_key_table).where(_COLUMNS.key_id == key_id, _COLUMNS.revoked_at.is_(None))
        if subject is not None:
            statement = statement.where(_COLUMNS.subject == subject)
        ended = await session.execute(statement.values(revoked_at=self._clock()).returning(_COLUMNS.key_id))
        return ended.one_or_none() is not None


_FIND: Final = sa.select(api_key_table).where(_COLUMNS.key_id == sa.bindparam("wanted", type_=sa.String()))


def _to_record(row: Any) -> ApiKeyRecord:
    return ApiKeyRecord(
        row.key_id,
        row.subject,
        row.name,
        frozenset(row.scopes),
        row.digest,
        row.created_at,
        row.expires_at,
        row.revoked_at,
    )

"""Logins: each is a family of refresh tokens, of which one is good at a time.

A refresh token works once and is followed by another. One that comes a second time was stolen, from its owner
or by the one that brings it, and ends the family. Except shortly after its use: then its answer may have been
lost, or two processes of one client have met, and the same successor is told again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db.database import Database
from backstay.db.model import new_id
from backstay.db.tokens._making import TokenMaker, utc_now
from backstay.db.tokens._sweeping import BATCH, choose_batch, sweep_rows
from backstay.db.tokens._tables import refresh_token_table, session_table
from backstay.settings import SecuritySettings
from backstay.settings.security import MAX_LEEWAY

__all__ = [
    "Begun",
    "RefusedRenewal",
    "Renewal",
    "Renewed",
    "ReuseDetected",
    "SessionState",
    "Sessions",
]

_SESSION: Final = session_table.c
_TOKEN: Final = refresh_token_table.c


@dataclass(frozen=True, slots=True)
class Begun:
    """A new login.

    Attributes:
        session_id: Its id, which access tokens carry; no secret.
        refresh_token: What renews it, once.
    """

    session_id: str
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Renewed:
    """A login that goes on.

    Attributes:
        session_id: Its id.
        subject: Who logged in.
        client_id: The client that did so.
        scopes: What was granted.
        refresh_token: What renews it the next time.
    """

    session_id: str
    subject: str
    client_id: str
    scopes: frozenset[str]
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RefusedRenewal:
    """A refresh token that is of no use; callers are told no more than that.

    Attributes:
        reason: For logs: nobody knows it, another client has it, its time or that of its login is over, or
            its login was revoked.
    """

    reason: Literal["unknown", "wrong_client", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class ReuseDetected:
    """A refresh token that came a second time; its login has ended, once the transaction commits.

    Attributes:
        session_id: Which login.
        subject: Whose.
    """

    session_id: str
    subject: str


Renewal: TypeAlias = Renewed | RefusedRenewal | ReuseDetected
"""What comes of a refresh token."""


@dataclass(frozen=True, slots=True)
class SessionState:
    """A login as it is stored.

    Attributes:
        session_id: Its id.
        subject: Who logged in.
        client_id: The client that did so.
        scopes: What was granted.
        created_at: When it began.
        expires_at: When it ends, renewed or not.
        revoked_at: When it was ended before; None when it was not.
    """

    session_id: str
    subject: str
    client_id: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

    def is_live(self, now: datetime) -> bool:
        """Return whether its access tokens are good."""
        return self.revoked_at is None and now < self.expires_at


class Sessions:
    """The logins of one database.

    Args:
        database: Where they are.
        settings: How long they and their tokens last.
        maker: Makes the tokens.
        clock: The present; the clocks of all machines are taken for one.
    """

    def __init__(
        self,
        database: Database,
        settings: SecuritySettings,
        maker: TokenMaker,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._refresh_ttl = settings.refresh_ttl
        self._session_ttl = settings.session_ttl
        self._grace = settings.refresh_grace
        self._maker = maker
        self._clock = clock

    async def begin(
        self, session: AsyncSession, subject: str, *, client_id: str, scopes: Iterable[str]
    ) -> Begun:
        """Store a new login, and return what renews it.

        Args:
            session: Its transaction stores it.
            subject: Who logs in.
            client_id: The client that does so; no other can renew it.
            scopes: What is granted.
        """
        now, session_id = self._clock(), new_id().hex
        expires_at = now + self._session_ttl
        await session.execute(
            sa.insert(session_table).values(
                id=session_id,
                subject=subject,
                client_id=client_id,
                scopes=sorted(set(scopes)),
                created_at=now,
                expires_at=expires_at,
            )
        )
        return Begun(session_id, await self._add_token(session, session_id, now, expires_at))

    async def _add_token(
        self, session: AsyncSession, session_id: str, now: datetime, session_ends: datetime
    ) -> str:
        token = self._maker.new_token()
        await session.execute(
            sa.insert(refresh_token_table).values(
                digest=self._maker.hash_token(token),
                session_id=session_id,
                created_at=now,
                expires_at=min(now + self._refresh_ttl, session_ends),
            )
        )
        return token

    async def renew(self, session: AsyncSession, refresh_token: str, *, client_id: str) -> Renewal:
        """Use a refresh token, and return its successor, or what is wrong with it.

        Within `security.refresh_grace` after its use a token gets the same successor again, whatever became
        of that one. Of two that come at once the second waits for the first. Later the login ends.

        Give it a transaction of its own, and let that commit whatever comes back:

            async with database.transaction() as own:
                renewal = await sessions.renew(own, token, client_id=client_id)

        `ReuseDetected` becomes an error for the caller, and the session of a request rolls back on errors:
        it would undo the very end of the login. On SQLite that session must not have written before, or the
        two wait for each other.

        Args:
            session: Its transaction stores what changes.
            refresh_token: As it came, from anybody.
            client_id: Who brings it.
        """
        row = (await session.execute(_find_token(self._maker.hash_token(refresh_token)))).one_or_none()
        now = self._clock()
        refusal = _refuse(row, client_id, now)
        if refusal is not None:
            return refusal
        if row.used_at is None:
            return _renewed(row, await self._use(session, row, refresh_token, now))
        successor = self._recall(row, refresh_token, now)
        if successor is not None:
            return _renewed(row, successor)
        await self.revoke(session, row.id)
        return ReuseDetected(row.id, row.subject)

    async def _use(self, session: AsyncSession, row: Any, token: str, now: datetime) -> str:
        successor = await self._add_token(session, row.id, now, row.expires_at)
        await session.execute(
            sa.update(refresh_token_table)
            .where(_TOKEN.digest == row.digest)
            .values(used_at=now, successor_sealed=self._maker.seal(successor, token))
        )
        return successor

    def _recall(self, row: Any, token: str, now: datetime) -> str | None:
        """Return the successor that a used token got, while its answer may have been lost."""
        if row.successor_sealed is None or now - row.used_at > self._grace:
            return None
        return self._maker.unseal(row.successor_sealed, token)

    async def revoke(self, session: AsyncSession, session_id: str) -> bool:
        """End a login; return whether there was one to end."""
        return bool(await self._revoke(session, _SESSION.id == session_id))

    async def revoke_all(
        self, session: AsyncSession, subject: str, *, except_session: str | None = None
    ) -> tuple[str, ...]:
        """End every login of somebody, and return their ids.

        Args:
            session: Its transaction ends them.
            subject: Whose.
            except_session: The one that goes on: whoever changes a password stays logged in.
        """
        chosen = _SESSION.subject == subject
        if except_session is not None:
            chosen &= _SESSION.id != except_session
        return await self._revoke(session, chosen)

    async def revoke_token(self, session: AsyncSession, refresh_token: str, *, client_id: str) -> str | None:
        """End the login that a refresh token belongs to, used or not, and return its id.

        Args:
            session: Its transaction ends it.
            refresh_token: As it came, from anybody.
            client_id: Who brings it; None comes for another client's token, and for none.
        """
        digest = self._maker.hash_token(refresh_token)
        of_token = sa.select(_TOKEN.session_id).where(_TOKEN.digest == digest).scalar_subquery()
        ended = await self._revoke(session, (_SESSION.id == of_token) & (_SESSION.client_id == client_id))
        return ended[0] if ended else None

    async def _revoke(self, session: AsyncSession, chosen: sa.ColumnElement[bool]) -> tuple[str, ...]:
        statement = sa.update(session_table).where(chosen, _SESSION.revoked_at.is_(None))
        ended = await session.scalars(statement.values(revoked_at=self._clock()).returning(_SESSION.id))
        return tuple(ended)

    async def find(self, session: AsyncSession, session_id: str) -> SessionState | None:
        """Return a login, also one that has ended; None when there is none, or no longer."""
        row = (await session.execute(_FIND, {"wanted": session_id})).one_or_none()
        if row is None:
            return None
        scopes = frozenset(row.scopes)
        times = (row.created_at, row.expires_at, row.revoked_at)
        return SessionState(row.id, row.subject, row.client_id, scopes, *times)

    async def sweep(self) -> bool:
        """Forget a batch of what is over, in transactions of its own; return whether more may be left.

        Successors that nobody can ask for any more are erased, and expired tokens and logins deleted. Any
        number of processes may sweep at once: none waits for the rows of another.
        """
        now = self._clock()
        return any(
            [
                await self._erase_successors(now),
                await self._sweep(_TOKEN.digest, _TOKEN.expires_at, now),
                await self._sweep(_SESSION.id, _SESSION.expires_at, now),
            ]
        )

    async def _sweep(self, key: sa.Column[str], expires_at: sa.Column[Any], now: datetime) -> bool:
        return await sweep_rows(self._database, key, is_over=expires_at <= now, oldest=expires_at)

    async def _erase_successors(self, now: datetime) -> bool:
        is_over = _TOKEN.successor_sealed.is_not(None) & (_TOKEN.used_at < now - self._grace - MAX_LEEWAY)
        batch = choose_batch(_TOKEN.digest, is_over, _TOKEN.used_at)
        statement = sa.update(refresh_token_table).where(_TOKEN.digest.in_(sa.select(batch)))
        async with self._database.transaction() as session:
            erased = await session.execute(statement.values(successor_sealed=None).returning(_TOKEN.digest))
            return len(erased.all()) == BATCH


_FIND: Final = sa.select(session_table).where(_SESSION.id == sa.bindparam("wanted", type_=sa.String()))


def _find_token(digest: str) -> sa.Select[Any]:
    """Return the query for a token with its login; it locks both, so that what it reads stays so."""
    # The login first, as PostgreSQL locks in this order, and so does the sweep, which takes tokens along.
    return (
        sa.select(
            session_table,
            _TOKEN.digest,
            _TOKEN.expires_at.label("token_expires_at"),
            _TOKEN.used_at,
            _TOKEN.successor_sealed,
        )
        .join_from(session_table, refresh_token_table)
        .where(_TOKEN.digest == digest)
        .with_for_update()
    )


def _refuse(row: Any, client_id: str, now: datetime) -> RefusedRenewal | None:
    if row is None:
        return RefusedRenewal("unknown")
    if row.client_id != client_id:
        return RefusedRenewal("wrong_client")
    if row.revoked_at is not None:
        return RefusedRenewal("revoked")
    return RefusedRenewal("expired") if min(row.token_expires_at, row.expires_at) <= now else None


def _renewed(row: Any, successor: str) -> Renewed:
    return Renewed(row.id, row.subject, row.client_id, frozenset(row.scopes), successor)

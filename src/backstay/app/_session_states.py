"""Whether a login or an API key is still good: asked by each request, answered by the coherent cache.

What ends one says so in its own transaction, so that it is seen at once, by all workers. The cached functions
are declared when they are first asked for: an app without accounts has no cached function.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from backstay.app.runtime import current_runtime
from backstay.cache.cached import CachedFunction, cached
from backstay.cache.forgetting import forget
from backstay.db import AsyncSession
from backstay.db.tokens import ApiKeys, Sessions, api_key_tables, session_tables
from backstay.security import opaque

__all__ = [
    "ApiKeyState",
    "find_api_key_state",
    "find_session_end",
    "forget_api_key",
    "forget_sessions",
]

_TTL = "15m"


@dataclass(frozen=True, slots=True)
class ApiKeyState:
    """What a request has to know of an API key.

    Attributes:
        subject: Whose rights it has.
        scopes: What it may do.
        digest: Of the whole key.
        ends_at: When it ends, in seconds since 1970; None for never.
    """

    subject: str
    scopes: tuple[str, ...]
    digest: str = field(repr=False)
    ends_at: float | None = None


@cache
def find_session_end() -> CachedFunction[[str], float]:
    """Return the function that tells when a login ends, in seconds since 1970; 0 when it has."""

    @cached("backstay.session:{session_id}", ttl=_TTL, reads=session_tables[:1])
    async def session_end(session_id: str) -> float:
        runtime = current_runtime()
        sessions = Sessions(runtime.database, runtime.settings.security, opaque)
        async with runtime.database.reading() as session:
            state = await sessions.find(session, session_id)
        return 0.0 if state is None or state.revoked_at is not None else state.expires_at.timestamp()

    return session_end


@cache
def find_api_key_state() -> CachedFunction[[str], ApiKeyState | None]:
    """Return the function that tells what an API key is good for; None when there is none."""

    @cached("backstay.api-key:{key_id}", ttl=_TTL, reads=api_key_tables)
    async def api_key_state(key_id: str) -> ApiKeyState | None:
        async with current_runtime().database.reading() as session:
            record = await ApiKeys().find(session, key_id)
        if record is None:
            return None
        ends_at = 0.0 if record.revoked_at is not None else None
        if record.expires_at is not None and ends_at is None:
            ends_at = record.expires_at.timestamp()
        return ApiKeyState(record.subject, tuple(sorted(record.scopes)), record.digest, ends_at)

    return api_key_state


async def forget_sessions(session: AsyncSession, session_ids: Iterable[str]) -> None:
    """Let the commit of a transaction make known that logins have ended."""
    for session_id in session_ids:
        await forget(find_session_end(), session=session, session_id=session_id)


async def forget_api_key(session: AsyncSession, key_id: str) -> None:
    """Let the commit of a transaction make known that an API key has changed."""
    await forget(find_api_key_state(), session=session, key_id=key_id)

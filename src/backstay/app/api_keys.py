"""API keys for programs: made, listed and ended by whose rights they have, or by the service.

An app takes them when it is made with `create_app(..., api_keys=True)`, as bearer tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from backstay.app._session_states import forget_api_key
from backstay.app.runtime import current_runtime
from backstay.db import AsyncSession
from backstay.db.tokens import ApiKeyRecord, ApiKeys
from backstay.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from backstay.logging import get_logger
from backstay.security import Principal
from backstay.security.api_keys import NewApiKey, new_api_key

__all__ = ["ApiKeyRecord", "NewApiKey", "issue_api_key", "list_api_keys", "revoke_api_key"]

_log = get_logger("backstay.auth")

_LONGEST_NAME: Final = 255
_LONGEST_PREFIX: Final = 20


async def issue_api_key(
    session: AsyncSession,
    principal: Principal,
    *,
    name: str,
    scopes: Iterable[str] = (),
    expires_at: datetime | None = None,
) -> NewApiKey:
    """Return a new API key; its `key` is shown to its owner now, and can never be shown again.

    Args:
        session: Its transaction stores the key's digest.
        principal: Whose rights it has. A key is never good for more than its owner may do at the time.
        name: What its owner calls it.
        scopes: What it may do.
        expires_at: When it ends; None for never.

    Raises:
        PermissionDeniedError: The owner lacks one of the scopes.
        InvalidInputError: The name has no length of 1 to 255, or the end is past.
    """
    wanted = frozenset(scopes)
    if not principal.has_scopes(*wanted):
        raise PermissionDeniedError("An API key cannot do what its owner may not.")
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise InvalidInputError(f"The name of an API key has 1 to {_LONGEST_NAME} characters.")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidInputError("An API key cannot end before it begins.")
    new = new_api_key(_prefix(current_runtime().settings.name))
    await ApiKeys().add(
        session,
        key_id=new.key_id,
        digest=new.digest,
        subject=principal.subject,
        name=name,
        scopes=wanted,
        expires_at=expires_at,
    )
    # Somebody may have tried this id before: that there is none may be cached.
    await forget_api_key(session, new.key_id)
    _log.info("api key issued", subject=principal.subject, key_id=new.key_id)
    return new


def _prefix(service: str) -> str:
    """Return what keys begin with, so that a scanner for leaked secrets knows whose they are."""
    letters = re.sub(r"[^a-z0-9]", "", service.lower()).lstrip("0123456789")
    return letters[:_LONGEST_PREFIX] or "key"


async def list_api_keys(session: AsyncSession, principal: Principal) -> tuple[ApiKeyRecord, ...]:
    """Return the API keys of a caller, newest first, also those that have ended."""
    return await ApiKeys().list(session, principal.subject)


async def revoke_api_key(session: AsyncSession, principal: Principal, *, key_id: str) -> None:
    """End one of a caller's API keys; from the commit on no request is let in with it.

    Raises:
        NotFoundError: The caller has no such key, or no longer.
    """
    if not await ApiKeys().revoke(session, key_id, subject=principal.subject):
        raise NotFoundError("There is no such API key.")
    await forget_api_key(session, key_id)
    _log.info("api key revoked", subject=principal.subject, key_id=key_id)

"""What the token endpoint gives: a login for a password, and another access token for a refresh token.

Each grant runs in a transaction of its own, not in the request's: what a reused token ends stays ended
although the answer is an error, and no connection is held while a password is compared.
"""

from __future__ import annotations

from typing import Any, Final

from backstay.app._identity import Identity
from backstay.app._login_limits import count_login, count_refresh
from backstay.app._oauth_forms import OAuthError, OAuthForm
from backstay.app._session_states import forget_sessions
from backstay.db import AsyncSession
from backstay.db.tokens import Renewal, Renewed, ReuseDetected
from backstay.errors import InvalidTokenError
from backstay.logging import get_logger

__all__ = ["GRANT_TYPES", "grant", "revoke"]

_log = get_logger("backstay.auth")


async def grant(identity: Identity, form: OAuthForm) -> dict[str, Any]:
    """Return what the token endpoint answers.

    Raises:
        OAuthError: There is nothing to give.
        RateLimitedError: It was asked too often.
    """
    kind = form.require("grant_type")
    if kind not in _GRANTS:
        raise OAuthError("unsupported_grant_type", f"There are the grants {' and '.join(GRANT_TYPES)}.")
    return await _GRANTS[kind](identity, form)


async def _grant_login(identity: Identity, form: OAuthForm) -> dict[str, Any]:
    login, password = form.require("username"), form.require("password")
    wanted = form.scopes
    await count_login(login)
    found = await identity.check_login(login, password)
    if found is None:
        raise _refuse_login()
    scopes, client_id = _narrow(found.account.scopes, wanted), _name_client(identity, form)
    subject = found.account.subject
    async with identity.runtime.database.transaction() as session:
        if await identity.reload(session, found.account) is None:
            raise _refuse_login()
        if found.new_hash is not None:
            await identity.accounts.set_password(session, subject, found.new_hash)
        begun = await identity.sessions.begin(session, subject, client_id=client_id, scopes=scopes)
    _log.info("login succeeded", subject=subject, session=begun.session_id)
    going_on = Renewed(begun.session_id, subject, client_id, scopes, begun.refresh_token)
    return _answer(identity, going_on, scopes)


def _refuse_login() -> OAuthError:
    _log.info("login failed")
    return OAuthError("invalid_grant", "The name or the password is wrong.")


def _narrow(owned: frozenset[str], wanted: frozenset[str] | None) -> frozenset[str]:
    granted = owned if wanted is None else owned & wanted
    if wanted is not None and not granted:
        raise OAuthError("invalid_scope", "This account has none of these scopes.")
    return granted


async def _grant_refresh(identity: Identity, form: OAuthForm) -> dict[str, Any]:
    token, wanted = form.require("refresh_token"), form.scopes
    await count_refresh(token)
    async with identity.runtime.database.transaction() as session:
        renewal = await identity.sessions.renew(session, token, client_id=_name_client(identity, form))
        scopes = await _find_scopes(identity, session, renewal)
        if isinstance(renewal, Renewed) and scopes is not None and wanted is not None:
            if not wanted <= renewal.scopes:
                # Rolls back: the token was not used.
                raise OAuthError("invalid_scope", "A refresh gives no scope that the login did not have.")
            scopes &= wanted
    if not isinstance(renewal, Renewed) or scopes is None:
        raise OAuthError("invalid_grant", "The refresh token is not valid, or no longer.")
    return _answer(identity, renewal, scopes)


async def _find_scopes(identity: Identity, session: AsyncSession, renewal: Renewal) -> frozenset[str] | None:
    """Return what the login gives now; None when it has ended, which the transaction then says to all."""
    if isinstance(renewal, ReuseDetected):
        _log.warning("refresh token reused", subject=renewal.subject, session=renewal.session_id)
        await forget_sessions(session, [renewal.session_id])
        return None
    if not isinstance(renewal, Renewed):
        _log.info("refresh failed", reason=renewal.reason)
        return None
    account = await identity.accounts.load(session, renewal.subject)
    if account is not None and account.is_active:
        return renewal.scopes & account.scopes
    _log.info("refresh failed", reason="no_account", subject=renewal.subject)
    await identity.sessions.revoke(session, renewal.session_id)
    await forget_sessions(session, [renewal.session_id])
    return None


_GRANTS: Final = {"password": _grant_login, "refresh_token": _grant_refresh}
GRANT_TYPES: Final = tuple(_GRANTS)
"""What the token endpoint has to give."""


def _name_client(identity: Identity, form: OAuthForm) -> str:
    # Access tokens have to name a client; one that has no name is the service's own.
    return form.client_id or identity.realm


def _answer(identity: Identity, login: Renewed, scopes: frozenset[str]) -> dict[str, Any]:
    issued = identity.tokens.issue(
        login.subject, client_id=login.client_id, scopes=scopes, session=login.session_id
    )
    return {
        "access_token": issued.token.get_secret_value(),
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
        "refresh_token": login.refresh_token,
        "scope": " ".join(sorted(scopes)),
    }


async def revoke(identity: Identity, form: OAuthForm) -> None:
    """End the login that a token belongs to; nothing happens for what is no token, or another client's.

    Raises:
        OAuthError: There is no token in the form.
    """
    token, client_id = form.require("token"), _name_client(identity, form)
    await count_refresh(token)
    async with identity.runtime.database.transaction() as session:
        ended = await identity.sessions.revoke_token(session, token, client_id=client_id)
        if ended is None:
            ended = await _revoke_by_access_token(identity, session, token, client_id=client_id)
        if ended is not None:
            await forget_sessions(session, [ended])
    if ended is not None:
        _log.info("login revoked", session=ended)


async def _revoke_by_access_token(
    identity: Identity, session: AsyncSession, token: str, *, client_id: str
) -> str | None:
    try:
        claims = identity.tokens.verify(token)
    except InvalidTokenError:
        return None
    if claims.session is None or claims.client_id != client_id:
        return None
    return claims.session if await identity.sessions.revoke(session, claims.session) else None

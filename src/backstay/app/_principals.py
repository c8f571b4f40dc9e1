"""Who calls, read off `Authorization: Bearer` and answered as RFC 6750 has it.

A caller is looked at once in a request, whoever asks. Nothing of what it sent is kept, logged or answered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from starlette.datastructures import Headers
from starlette.exceptions import WebSocketException
from starlette.requests import HTTPConnection
from starlette.status import WS_1008_POLICY_VIOLATION
from starlette.types import Scope

from backstay.errors import (
    AppError,
    BadRequestError,
    InvalidTokenError,
    PermissionDeniedError,
    UnauthenticatedError,
    UsageError,
)
from backstay.logging import get_logger
from backstay.security import Principal

if TYPE_CHECKING:
    from backstay.app._identity import Identity

__all__ = [
    "find_identity",
    "find_owner",
    "identify",
    "identity_of",
    "principal_of",
    "require_principal",
    "require_scopes",
]

_log = get_logger("backstay.auth")

_CALLER: Final = "backstay.caller"
_UNQUOTABLE: Final = re.compile(r'[^\x20-\x7e]|["\\]')


class MalformedCredentialsError(BadRequestError):
    """The credentials are not of the form that RFC 6750 gives them."""

    code = "invalid_request"


async def identify(connection: HTTPConnection) -> Principal | None:
    """Return who calls; None when the request does not say.

    Raises:
        MalformedCredentialsError: It says so in no form that can be read; 400.
        InvalidTokenError: What it shows is no good; 401.
    """
    known = connection.scope.get(_CALLER, connection)
    if known is connection:
        known = connection.scope[_CALLER] = await _look_at(connection)
    if isinstance(known, AppError):
        _refuse(connection, known)
    return known if isinstance(known, Principal) else None


async def _look_at(connection: HTTPConnection) -> Principal | AppError | None:
    identity = identity_of(connection)
    try:
        token = _read_token(connection.headers)
        if token is None:
            return None
        principal = await identity.authenticate(token)
    except (MalformedCredentialsError, InvalidTokenError) as error:
        reason = error.reason if isinstance(error, InvalidTokenError) else error.code
        _log.info("authentication failed", reason=reason)
        error.headers["WWW-Authenticate"] = challenge(identity.realm, error=error.code)
        return error
    _remember(connection.scope, principal)
    return principal


def _read_token(headers: Headers) -> str | None:
    lines = headers.getlist("authorization")
    if len(lines) > 1:
        raise MalformedCredentialsError("Send one Authorization header.")
    scheme, _, token = lines[0].strip().partition(" ") if lines else ("", "", "")
    if scheme.lower() != "bearer":
        return None
    if not token.strip():
        raise MalformedCredentialsError("Send the token after `Bearer`, in the same header.")
    return token.strip()


def _remember(scope: Scope, principal: Principal) -> None:
    exchange = scope.get("backstay.exchange")
    if exchange is not None:
        exchange.principal = principal


def principal_of(scope: Scope) -> Principal | None:
    """Return who calls, as far as anybody has asked in this request."""
    exchange = scope.get("backstay.exchange")
    known = scope.get(_CALLER) if exchange is None else exchange.principal
    return known if isinstance(known, Principal) else None


async def find_owner(connection: HTTPConnection) -> Principal | None:
    """Return who calls, for what is kept apart by caller; None too for whom a later check will refuse."""
    if find_identity(connection) is None:
        return None
    try:
        return await identify(connection)
    except AppError:
        return None


async def require_principal(connection: HTTPConnection) -> Principal:
    """Return who calls.

    Raises:
        UnauthenticatedError: The request does not say.
    """
    principal = await identify(connection)
    if principal is None:
        _log.info("authentication failed", reason="no_credentials")
        realm = identity_of(connection).realm
        header = {"WWW-Authenticate": challenge(realm)}
        _refuse(connection, UnauthenticatedError("This needs a bearer token.", headers=header))
    return principal


def _refuse(connection: HTTPConnection, error: AppError) -> NoReturn:
    if connection.scope["type"] == "websocket":
        raise WebSocketException(WS_1008_POLICY_VIOLATION, error.title) from error
    raise error


async def require_scopes(connection: HTTPConnection, scopes: tuple[str, ...]) -> None:
    """Do nothing when the caller has all of these scopes.

    Raises:
        UnauthenticatedError: Nobody is known to call.
        PermissionDeniedError: The caller has not all of them.
    """
    principal = await require_principal(connection)
    if not principal.has_scopes(*scopes):
        needed = " ".join(scopes)
        _log.info("authorization denied", needed=needed)
        realm = identity_of(connection).realm
        header = {"WWW-Authenticate": challenge(realm, error="insufficient_scope", scope=needed)}
        _refuse(connection, PermissionDeniedError("The token lacks a scope.", headers=header))


def challenge(realm: str, **parameters: str) -> str:
    """Return a `WWW-Authenticate` header: `Bearer realm="shop", error="invalid_token"`."""
    named = {"realm": realm, **parameters}
    return "Bearer " + ", ".join(f'{name}="{_UNQUOTABLE.sub("", text)}"' for name, text in named.items())


def find_identity(connection: HTTPConnection) -> Identity | None:
    """Return what proves who calls the app of this request; None when nothing does."""
    installation: Any = getattr(getattr(connection.scope.get("app"), "state", None), "backstay", None)
    identity: Identity | None = getattr(installation, "identity", None)
    return identity


def identity_of(connection: HTTPConnection) -> Identity:
    """Return what proves who calls the app of this request.

    Raises:
        UsageError: Nothing does.
    """
    identity = find_identity(connection)
    if identity is None:
        raise UsageError(
            "Nothing proves who calls: give create_app(..., accounts=...) or api_keys=True, and run its "
            "lifespan."
        )
    return identity

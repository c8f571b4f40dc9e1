"""The OAuth endpoints of a service with accounts: tokens, revocation, metadata and keys.

To the letter of RFC 6749 (the grants password and refresh_token), 7009, 8414 and 7517, so that any OAuth
client works unchanged. What they answer is OAuth's shape, errors included, and not a problem document.
"""

from collections.abc import Awaitable
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from backstay import json
from backstay.app._grants import GRANT_TYPES, grant, revoke
from backstay.app._oauth_forms import REVOCATION_PATH, TOKEN_PATH, OAuthError, oauth_response, read_form
from backstay.app._principals import identity_of
from backstay.app.policies import public
from backstay.security.keys import JWKS_MAX_AGE

__all__ = ["make_oauth_router"]

_METADATA_PATH: Final = "/.well-known/oauth-authorization-server"
_KEYS_PATH: Final = "/.well-known/jwks.json"


def make_oauth_router() -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["authentication"], dependencies=[public])
    add = router.add_api_route
    add(
        TOKEN_PATH,
        issue_tokens,
        methods=["POST"],
        operation_id="oauth_token",
        openapi_extra=_TOKEN_FORM,
        responses=_TOKEN_RESPONSES,
    )
    add(
        REVOCATION_PATH,
        revoke_token,
        methods=["POST"],
        operation_id="oauth_revoke",
        openapi_extra=_REVOCATION_FORM,
        responses=_REVOCATION_RESPONSES,
    )
    add(_METADATA_PATH, show_metadata, methods=["GET"], include_in_schema=False)
    add(_KEYS_PATH, show_keys, methods=["GET"], include_in_schema=False)
    return router


async def issue_tokens(request: Request) -> Response:
    """Log in with a password, or go on with a refresh token."""

    async def answer() -> dict[str, Any]:
        return await grant(identity_of(request), await read_form(request))

    return await _answer(answer())


async def revoke_token(request: Request) -> Response:
    """Log out: end the login that a token belongs to. A token that is none is no error."""

    async def answer() -> dict[str, Any]:
        await revoke(identity_of(request), await read_form(request))
        return {}

    return await _answer(answer())


async def _answer(answering: Awaitable[dict[str, Any]]) -> Response:
    try:
        return oauth_response(await answering)
    except OAuthError as error:
        return error.response()


async def show_metadata(request: Request) -> Response:
    """Say what this authorization server does, and where."""
    issuer = identity_of(request).issuer
    base = issuer.rstrip("/")
    content = {
        "issuer": issuer,
        "token_endpoint": f"{base}{TOKEN_PATH}",
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint": f"{base}{REVOCATION_PATH}",
        "revocation_endpoint_auth_methods_supported": ["none"],
        "jwks_uri": f"{base}{_KEYS_PATH}",
        "grant_types_supported": list(GRANT_TYPES),
        # There is no authorization endpoint that would answer in one of them; the member is required.
        "response_types_supported": [],
    }
    return _cacheable(content)


async def show_keys(request: Request) -> Response:
    """Show the keys that access tokens are verified with."""
    return _cacheable(identity_of(request).public_keys())


def _cacheable(content: object) -> Response:
    headers = {"Cache-Control": f"public, max-age={int(JWKS_MAX_AGE.total_seconds())}"}
    return Response(json.dumps(content), media_type="application/json", headers=headers)


# ---------------------------------------------------------------- OpenAPI


def _form(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": {"type": "string"},
    }
    return {
        "requestBody": {
            "required": True,
            "content": {"application/x-www-form-urlencoded": {"schema": schema}},
        }
    }


_TEXT: Final = {"type": "string"}
_SECRET: Final = {"type": "string", "format": "password"}
_SCOPES: Final = {"type": "string", "pattern": r"^([!#-\[\]-~]+( [!#-\[\]-~]+)*)?$"}
_CLIENT: Final = {"type": "string", "pattern": "^[ -~]{0,200}$"}
_TOKEN_FORM: Final = _form(
    ["grant_type"],
    grant_type={"type": "string", "enum": list(GRANT_TYPES)},
    username=_TEXT,
    password=_SECRET,
    refresh_token=_SECRET,
    scope=_SCOPES,
    client_id=_CLIENT,
)
_REVOCATION_FORM: Final = _form(
    ["token"], token={**_SECRET, "minLength": 1}, token_type_hint=_TEXT, client_id=_CLIENT
)
_TOKENS: Final = {
    "type": "object",
    "required": ["access_token", "token_type", "expires_in", "refresh_token", "scope"],
    "properties": {
        "access_token": _TEXT,
        "token_type": {"type": "string", "enum": ["Bearer"]},
        "expires_in": {"type": "integer"},
        "refresh_token": _TEXT,
        "scope": _TEXT,
    },
}
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": _TEXT, "error_description": _TEXT},
}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_FAILURES: Final[dict[int | str, dict[str, Any]]] = {
    400: _json("The request is not valid, or there is nothing to give (RFC 6749, 5.2).", _ERROR),
    401: _json("The client is unknown.", _ERROR),
    429: {"description": "Too many attempts."},
}
_TOKEN_RESPONSES: Final = {200: _json("The tokens.", _TOKENS), **_FAILURES}
_REVOCATION_RESPONSES: Final = {
    200: _json("There is no such login, or no longer.", {"type": "object"}),
    **_FAILURES,
}

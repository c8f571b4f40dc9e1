"""What an OAuth endpoint is sent, and what it answers: forms and JSON, to the letter of RFC 6749."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote_plus

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from backstay import json

__all__ = ["REVOCATION_PATH", "TOKEN_PATH", "OAuthError", "OAuthForm", "oauth_response", "read_form"]

TOKEN_PATH: Final = "/oauth/token"  # noqa: S105  a path
REVOCATION_PATH: Final = "/oauth/revoke"

ErrorCode: TypeAlias = Literal[
    "invalid_client", "invalid_grant", "invalid_request", "invalid_scope", "unsupported_grant_type"
]

_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
# What UNICODECHARNOCRLF leaves out: RFC 6749, appendix A.
_NO_TEXT: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_CLIENT_ID: Final = re.compile(r"[\x20-\x7e]{1,200}")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")


class OAuthError(Exception):
    """An answer of an OAuth endpoint that is an error, in the shape of RFC 6749, 5.2.

    Args:
        error: Its word.
        description: A sentence for developers; it holds nothing of what was sent.
    """

    def __init__(self, error: ErrorCode, description: str, *, challenge: str | None = None) -> None:
        super().__init__(error)
        self.error: ErrorCode = error
        self.description = description
        self.challenge = challenge

    def response(self) -> Response:
        """Return it as a response."""
        content = {"error": self.error, "error_description": self.description}
        if self.error != "invalid_client":
            return oauth_response(content, status=400)
        headers = {} if self.challenge is None else {"WWW-Authenticate": self.challenge}
        return oauth_response(content, status=401, headers=headers)


def oauth_response(
    content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer that no cache keeps."""
    return Response(
        json.dumps(dict(content)),
        status_code=status,
        media_type="application/json",
        headers={**_NO_STORE, **(headers or {})},
    )


@dataclass(frozen=True, slots=True)
class OAuthForm:
    """The parameters of a request.

    Attributes:
        parameters: Those that have a value, by name.
        client_id: Who asks, as it calls itself; None when it does not say.
    """

    parameters: Mapping[str, str]
    client_id: str | None

    def require(self, name: str) -> str:
        """Return a parameter.

        Raises:
            OAuthError: It is missing.
        """
        if name not in self.parameters:
            raise OAuthError("invalid_request", f"The parameter {name} is missing.")
        return self.parameters[name]

    @property
    def scopes(self) -> frozenset[str] | None:
        """What the client asks for; None when it leaves that open.

        Raises:
            OAuthError: It is no list of scopes.
        """
        text = self.parameters.get("scope")
        if text is None:
            return None
        if _SCOPE.fullmatch(text) is None:
            raise OAuthError("invalid_scope", "The parameter scope is a list of scopes, with single spaces.")
        return frozenset(text.split(" "))


async def read_form(request: Request) -> OAuthForm:
    """Return what a request says.

    Raises:
        OAuthError: It cannot be read, or its client is none that this service knows.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _MEDIA_TYPE:
        raise OAuthError("invalid_request", f"Send the parameters as {_MEDIA_TYPE}.")
    try:
        parameters = _list_parameters(await request.form())
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise OAuthError("invalid_request", "The form cannot be read.") from error
    return OAuthForm(parameters, _find_client(request, parameters))


def _list_parameters(form: FormData) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in parameters:
            raise OAuthError("invalid_request", "A parameter stands twice.")
        parameters[name] = str(value)
        if _NO_TEXT.search(parameters[name]) is not None:
            raise OAuthError("invalid_request", "A parameter holds control characters.")
    # One without a value counts as left out: RFC 6749, 3.2.
    return {name: value for name, value in parameters.items() if value}


def _find_client(request: Request, parameters: Mapping[str, str]) -> str | None:
    """Return what the client calls itself: all clients are public ones, which have no secret."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    client_id = parameters.get("client_id")
    if scheme.lower() == "basic":
        named, _, secret = _decode_basic(credentials).partition(":")
        if secret or (client_id is not None and named not in ("", client_id)):
            raise _unknown_client(scheme)
        client_id = client_id or unquote_plus(named) or None
    is_strange = client_id is not None and _CLIENT_ID.fullmatch(client_id) is None
    if is_strange or "client_secret" in parameters:
        raise _unknown_client(scheme)
    return client_id


def _decode_basic(credentials: str) -> str:
    try:
        return b64decode(credentials, validate=True).decode("latin-1")
    except Base64Error:
        raise _unknown_client("basic") from None


def _unknown_client(scheme: str) -> OAuthError:
    description = "This service knows public clients only: they send a client_id, or none, and no secret."
    return OAuthError(
        "invalid_client",
        description,
        challenge='Basic realm="clients"' if scheme.lower() == "basic" else None,
    )

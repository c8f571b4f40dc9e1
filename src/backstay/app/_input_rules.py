"""What a request may look like before any route sees it: its headers, its address, its JSON body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from traceback import walk_tb
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Scope

from backstay.app._hosts import AllowedHosts
from backstay.app._strict_json import NotJSONError, UnclearJSONError, read_strictly
from backstay.errors import BadRequestError
from backstay.settings import Settings

__all__ = ["BodyReading", "InputRules", "explain_unread_body"]


@dataclass(frozen=True, slots=True)
class InputRules:
    """The limits of one service; None leaves a thing as it is.

    Attributes:
        max_headers: How many header lines a request may have.
        max_header_bytes: How long its header lines may be together, names and values.
        max_target_bytes: How long its path and query may be together.
        hosts: The names that it may be called by.
        max_json_depth: How deep arrays and objects may be nested. None: bodies are not read strictly.
        max_json_values: How many members and items all of them may hold together.
        refuses_unclear_text: Paths, queries and forms have to be UTF-8, and must not hold a NUL.
    """

    max_headers: int | None = None
    max_header_bytes: int | None = None
    max_target_bytes: int | None = None
    hosts: AllowedHosts = field(default_factory=AllowedHosts)
    max_json_depth: int | None = None
    max_json_values: int = 0
    refuses_unclear_text: bool = False

    @classmethod
    def of_installed(cls, settings: Settings) -> InputRules:
        """Return the rules for an app that `install` met: none that a setting does not ask for."""
        http = settings.http
        return cls(
            max_json_depth=http.max_json_depth if http.strict_json else None,
            max_json_values=http.max_json_values,
        )

    @classmethod
    def of_created(cls, settings: Settings) -> InputRules:
        """Return the rules for an app that `create_app` made."""
        http = settings.http
        return cls(
            max_headers=http.max_headers,
            max_header_bytes=http.max_header_bytes,
            max_target_bytes=http.max_target_bytes,
            hosts=AllowedHosts.of(http.allowed_hosts),
            max_json_depth=None if http.strict_json is False else http.max_json_depth,
            max_json_values=http.max_json_values,
            refuses_unclear_text=True,
        )

    def refuse(self, scope: Scope) -> HTTPException | None:
        """Return what is wrong with the head of a request, if anything is."""
        if self._has_large_head(scope["headers"]):
            return HTTPException(431)
        if self._has_long_target(scope):
            return HTTPException(414)
        if self.hosts.refuses(scope):
            return HTTPException(421)
        if self.refuses_unclear_text and _is_unclear_address(scope):
            return _refusal(400, code="malformed_address", detail=f"The path and the query {_TEXT}")
        return None

    def reading(self, scope: Scope) -> BodyReading | None:
        """Return what reads the body as it arrives; None when nobody needs to."""
        is_needed = self.refuses_unclear_text or self.max_json_depth is not None
        return BodyReading(scope["headers"], self) if is_needed else None

    def check_of(self, media_type: str) -> Callable[[bytes], None] | None:
        """Return what refuses a whole body of this type; None when it may be anything."""
        # Wider than what FastAPI takes for JSON: some services read any type with `await request.json()`.
        if media_type.endswith(("/json", "+json")) and self.max_json_depth is not None:
            return partial(_check_json, max_depth=self.max_json_depth, max_values=self.max_json_values)
        if media_type == "application/x-www-form-urlencoded" and self.refuses_unclear_text:
            return _check_form
        return None

    def _has_long_target(self, scope: Scope) -> bool:
        if self.max_target_bytes is None:
            return False
        path = scope.get("raw_path") or scope["path"]
        return len(path) + len(scope["query_string"]) > self.max_target_bytes

    def _has_large_head(self, headers: list[tuple[bytes, bytes]]) -> bool:
        if self.max_headers is not None and len(headers) > self.max_headers:
            return True
        limit = self.max_header_bytes
        return limit is not None and sum(len(name) + len(value) for name, value in headers) > limit


_TEXT: Final = "must be UTF-8, percent-encoded, without the character NUL."


def _is_unclear_address(scope: Scope) -> bool:
    return any(
        b"%" in part and _is_unclear_text(part)
        for part in (scope.get("raw_path") or b"", scope["query_string"])
    )


def _is_unclear_text(encoded: bytes) -> bool:
    text = unquote_to_bytes(encoded)
    if b"\0" in text:
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return False


class BodyReading:
    """Keeps a body as it arrives, if its type has to be checked, and refuses it at its end."""

    __slots__ = ("_check", "_chunks", "_has_begun", "_headers", "_rules")

    def __init__(self, headers: list[tuple[bytes, bytes]], rules: InputRules) -> None:
        self._headers = headers
        self._rules = rules
        self._has_begun = False
        self._check: Callable[[bytes], None] | None = None
        self._chunks: list[bytes] = []

    def take(self, message: Message) -> None:
        """Look at one message that the app is about to get.

        Raises:
            HTTPException: The body is complete and refused. FastAPI passes on no other error of a body.
        """
        if body := message.get("body", b""):
            self._begin()
            if self._check is not None:
                self._chunks.append(body)
        if self._check is not None and self._chunks and not message.get("more_body", False):
            chunks, self._chunks = self._chunks, []  # a repeated request comes by again
            self._check(b"".join(chunks))

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            media_type = Headers(raw=self._headers).get("content-type", "").partition(";")[0]
            self._check = self._rules.check_of(media_type.strip().lower())


class UnreadBodyError(BadRequestError):
    """The route read the body as JSON, which it is not."""

    code = "malformed_json"


def explain_unread_body(error: BaseException) -> UnreadBodyError | None:
    """Return what an error of `await request.json()` says to the caller; None for any other error.

    An empty body comes to this, and one of a type that nobody checks: a route need not read either.
    """
    frames = (frame.f_code for frame, _ in walk_tb(error.__traceback__))
    if isinstance(error, ValueError | RecursionError) and Request.json.__code__ in frames:
        return UnreadBodyError("The body is not valid JSON.")
    return None


def _check_form(text: bytes) -> None:
    if _is_unclear_text(text):
        raise _refusal(400, code="malformed_form", detail=f"The form {_TEXT}")


def _check_json(text: bytes, *, max_depth: int, max_values: int) -> None:
    try:
        read_strictly(text, max_depth=max_depth, max_values=max_values)
    except NotJSONError as error:
        detail = f"The body is not valid JSON, at character {error.position}."
        raise _refusal(400, code="malformed_json", detail=detail) from None
    except UnclearJSONError as error:
        raise _refusal(422, code=error.code, detail=f"{error}") from None


def _refusal(status: int, **members: str) -> HTTPException:
    return HTTPException(status, members)  # type: ignore[arg-type]  # FastAPI's allows what Starlette's says not

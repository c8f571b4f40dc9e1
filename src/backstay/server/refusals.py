"""What the server itself answers, to what never becomes a request of the app."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from backstay import json
from backstay.app.problems import PROBLEM_MEDIA_TYPE, standard_problem
from backstay.logging import get_logger
from backstay.server.bounds import Bounds

__all__ = [
    "BODY_TOO_SLOW",
    "HEAD_TOO_LARGE",
    "HEAD_TOO_SLOW",
    "MALFORMED",
    "TARGET_TOO_LONG",
    "TOO_MANY_AT_ONCE",
    "Refusal",
    "refuse_headers",
    "refuse_request_line",
]

_log = get_logger("backstay.server")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the server answers itself, and closes the connection."""

    status: int
    detail: str
    code: str | None = None
    """For programs, where it says more than the status."""

    def answer(self, bounds: Bounds, *, date: list[tuple[bytes, bytes]], request_id: str | None) -> bytes:
        """Return the answer as it goes over the wire, and log its request id."""
        request_id = request_id or secrets.token_hex(16)
        _log.info("refused", request_id=request_id, status=self.status, reason=self.detail)
        problem = standard_problem(self.status, detail=self.detail, request_id=request_id, code=self.code)
        body = json.dumps(problem.model_dump(exclude_none=True))
        headers = (
            ("Content-Type", PROBLEM_MEDIA_TYPE),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            (bounds.request_id_header, request_id),
            *bounds.answer_headers,
        )
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in date]
        lines += [f"{name}: {value}".encode() for name, value in headers]
        return b"\r\n".join([*lines, b"", body])


def _malformed(detail: str) -> Refusal:
    return Refusal(400, detail, "malformed_request")


MALFORMED: Final = _malformed("This is not a request in HTTP/1.1.")
HEAD_TOO_SLOW: Final = Refusal(408, "The head of the request took too long.")
BODY_TOO_SLOW: Final = Refusal(408, "The body of the request took too long.")
TARGET_TOO_LONG: Final = Refusal(414, "The path and the query are too long.")
HEAD_TOO_LARGE: Final = Refusal(431, "The head of the request is too large.")
TOO_MANY_AT_ONCE: Final = Refusal(503, "Too many requests wait on this connection.")

_NO_HOST: Final = _malformed("A request names one host, in the header Host.")
_FOREIGN_TARGET: Final = _malformed("The request names two different hosts.")
_MALFORMED_TARGET: Final = _malformed("The request's path is malformed.")
_UNCLEAR_FRAMING: Final = _malformed("HTTP/1.0 has no Transfer-Encoding: the end of the body is unclear.")
_UNKNOWN_ENCODING: Final = Refusal(501, "Transfer-Encoding may only be chunked.")
_NO_TUNNELS: Final = Refusal(501, "This server is no proxy.")
_UNKNOWN_VERSION: Final = Refusal(505, "Send HTTP/1.1 or HTTP/1.0.")


def refuse_request_line(bounds: Bounds, *, method: bytes, target: bytes, version: str) -> Refusal | None:
    """Return what is wrong with the first line of a head that the parser has accepted, if anything is."""
    if version not in {"1.1", "1.0"}:
        return _UNKNOWN_VERSION
    if method == b"CONNECT":
        return _NO_TUNNELS
    if len(target) > bounds.max_target_bytes:
        return TARGET_TOO_LONG
    # A fragment stays with the caller; one that arrives is read differently by each hop.
    if b"#" in target or not (target.startswith(_TARGETS) or (target == b"*" and method == b"OPTIONS")):
        return _MALFORMED_TARGET
    return None


_TARGETS: Final = (b"/", b"http://", b"https://")


def refuse_headers(
    bounds: Bounds, headers: list[tuple[bytes, bytes]], *, target: bytes, version: str, read_bytes: int
) -> Refusal | None:
    """Return what is wrong with the lines of a head that the parser has accepted, if anything is.

    The parser refuses by itself what is malformed, and a body whose end could be understood in two ways. It
    does not look at hosts, nor at what RFC 9112 leaves to the server.

    Args:
        bounds: The limits.
        headers: Names in small letters, and values.
        target: From the first line.
        version: From the first line: `1.1` or `1.0`.
        read_bytes: How much was read for the head, and perhaps for what is behind it.
    """
    # Counted only when it could be too much: this runs for every request.
    limit = bounds.max_header_bytes
    if len(headers) > bounds.max_headers or (read_bytes > limit and _count_bytes(headers) > limit):
        return HEAD_TOO_LARGE
    names = [name for name, _ in headers]
    if b"transfer-encoding" in names and (refusal := _refuse_encoding(headers, version)) is not None:
        return refusal
    if (hosts := names.count(b"host")) == 1:
        return _refuse_host(headers[names.index(b"host")][1], target)
    return _NO_HOST if hosts or version == "1.1" else None


def _count_bytes(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def _refuse_encoding(headers: list[tuple[bytes, bytes]], version: str) -> Refusal | None:
    if version == "1.0":
        return _UNCLEAR_FRAMING
    encodings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    return None if encodings == [b"chunked"] else _UNKNOWN_ENCODING


def _refuse_host(host: bytes, target: bytes) -> Refusal | None:
    if _HOST.fullmatch(host) is None:
        return _NO_HOST
    return None if target.startswith((b"/", b"*")) or _names_host(target, host) else _FOREIGN_TARGET


_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
"""A name or an address, and a port. RFC 3986 allows a comma, too; no name has one, and lists do."""


def _names_host(target: bytes, host: bytes) -> bool:
    """Return whether the host in an absolute target is the one of the header."""
    authority = target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
    return authority.lower() == host.lower()

"""What one server asks of its connections, and what it says when it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from backstay.app.installation import Installation
from backstay.app.response_headers import security_headers
from backstay.settings import HttpSettings, ServerSettings, Settings

__all__ = ["Bounds"]

_HEAD_FRAMING_BYTES = 512
"""What a head has beside its target and the names and values of its lines: method, version, separators."""

_LINE_FRAMING_BYTES = 4
"""Colon, space and the end of the line."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of one server's connections; times are in seconds.

    Attributes:
        header_seconds: From the opening of a connection, or the first byte of a later request, to the end of
            its head.
        body_seconds: From the end of the head to the end of the body, without the time in which the service
            does not read.
        stall_seconds: For how long a caller may be slower than `min_bytes_per_second`.
        min_bytes_per_second: Bytes per second.
        keep_alive_seconds: From an answer to the next request.
        max_headers: Lines of a head.
        max_header_bytes: Names and values of these lines together.
        max_target_bytes: The path and query, as they are sent.
        request_id_header: The header that carries a request's id.
        answer_headers: What each answer of the server itself carries.
    """

    header_seconds: float
    body_seconds: float
    stall_seconds: float
    min_bytes_per_second: int
    keep_alive_seconds: float
    max_headers: int
    max_header_bytes: int
    max_target_bytes: int
    request_id_header: str
    answer_headers: tuple[tuple[str, str], ...]

    @classmethod
    def of_app(cls, app: object) -> Self:
        """Return the bounds for an app as the server has it; the defaults when backstay is not in it."""
        installation = _find_installation(app)
        if installation is None:
            return cls._of_sections(ServerSettings(), HttpSettings(), security_headers(is_exposed=False))
        settings = installation.settings
        return cls._of_sections(settings.server, settings.http, _answer_headers(settings))

    @classmethod
    def _of_sections(
        cls, server: ServerSettings, http: HttpSettings, answer_headers: tuple[tuple[str, str], ...]
    ) -> Self:
        return cls(
            header_seconds=server.header_timeout.total_seconds(),
            body_seconds=server.body_timeout.total_seconds(),
            stall_seconds=server.stall_timeout.total_seconds(),
            min_bytes_per_second=server.min_bytes_per_second,
            keep_alive_seconds=server.keep_alive.total_seconds(),
            max_headers=http.max_headers,
            max_header_bytes=http.max_header_bytes,
            max_target_bytes=http.max_target_bytes,
            request_id_header=http.request_id_header,
            answer_headers=answer_headers,
        )

    @property
    def head_bytes(self) -> int:
        """How many bytes may be read before a head has ended: what is within the limits always fits."""
        framing = _HEAD_FRAMING_BYTES + self.max_headers * _LINE_FRAMING_BYTES
        return self.max_target_bytes + self.max_header_bytes + framing


def _answer_headers(settings: Settings) -> tuple[tuple[str, str], ...]:
    return security_headers(is_exposed=settings.environment == "production")


def _find_installation(app: object) -> Installation | None:
    """Return what backstay left on the app, which middlewares may surround."""
    while app is not None:
        found = getattr(getattr(app, "state", None), "backstay", None)
        if isinstance(found, Installation):
            return found
        app = getattr(app, "app", None)
    return None

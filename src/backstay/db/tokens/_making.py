"""What comes from outside: the making of tokens, which is the room `security`'s, and the time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

__all__ = ["TokenMaker", "utc_now"]


class TokenMaker(Protocol):
    """Makes tokens and what is stored of them; the module `backstay.security.opaque` is one."""

    def new_token(self) -> str:
        """Return a new token that nobody can guess."""

    def hash_token(self, token: str, /) -> str:
        """Return what is stored instead of a token."""

    def seal(self, content: str, token: str, /) -> bytes:
        """Return a text so that only who has the token can read it."""

    def unseal(self, sealed: bytes, token: str, /) -> str | None:
        """Return the text that was sealed; None when it was not with this token."""


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)

"""Who calls, as far as a route has to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, proven by a token or a key.

    Attributes:
        subject: Whose rights these are: the id of a user or of a service.
        scopes: What the caller may do.
        kind: What proved it: a user's access token, an API key, or a client's own access token.
        client_id: The OAuth client that got the token; None for an API key.
        session: The login that the token belongs to, which can be revoked; None for API keys and clients.
        key_id: The public half of the API key; None for tokens.
    """

    subject: str
    scopes: frozenset[str] = frozenset()
    kind: Literal["user", "api_key", "client"] = "user"
    client_id: str | None = None
    session: str | None = None
    key_id: str | None = None

    def has_scopes(self, *scopes: str) -> bool:
        """Return whether the caller has all of these scopes."""
        return self.scopes.issuperset(scopes)

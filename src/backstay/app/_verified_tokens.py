"""Access tokens that this process has verified, and need not again: a signature costs as much as a request.

Only what the token says by itself is remembered. Whether its login has ended is for the caller to ask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from backstay.security.keys import KeyRing
from backstay.security.tokens import AccessTokens, Claims

__all__ = ["VerifiedTokens"]

_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class _Verified:
    claims: Claims
    ring: KeyRing
    expires_at: float


class VerifiedTokens:
    """Verify access tokens, each of them once.

    Args:
        tokens: Verifies them.
        ring: Gives the current keys; what was verified with others is forgotten.
    """

    def __init__(self, tokens: AccessTokens, ring: Callable[[], KeyRing]) -> None:
        self._tokens = tokens
        self._ring = ring
        self._verified: dict[str, _Verified] = {}

    def verify(self, token: str) -> Claims:
        """Return what a token says.

        Raises:
            InvalidTokenError: It is no good.
        """
        ring, known = self._ring(), self._verified.get(token)
        if known is not None:
            if known.ring is ring and datetime.now(UTC).timestamp() < known.expires_at:
                return known.claims
            del self._verified[token]
        claims = self._tokens.verify(token)
        while len(self._verified) >= _REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = _Verified(claims, ring, claims.expires_at.timestamp())
        return claims

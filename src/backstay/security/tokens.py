"""Access tokens: JSON Web Tokens in the profile of RFC 9068, signed by one of our keys.

Signatures and keys are PyJWT's. What it leaves to options is fixed here: the key and its algorithm come from
the ring, each claim has to be there and of its type, and whatever is wrong is an `InvalidTokenError`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydantic import SecretStr

from backstay.errors import UsageError
from backstay.json import dumps
from backstay.security._jwk import sign
from backstay.security._verification import Claims, TokenVerifier, encode_segment
from backstay.security.keys import KeyRing, KeySource
from backstay.settings.security import SecuritySettings

__all__ = ["AccessTokens", "Claims", "ForeignTokens", "IssuedToken"]

_TOKEN_ID_BYTES: Final = 16
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new access token.

    Attributes:
        token: What the caller sends as its bearer token.
        expires_in: Seconds.
    """

    token: SecretStr
    expires_in: int


class AccessTokens:
    """Issue and verify the service's own access tokens.

    Args:
        settings: How long they are good, and how far clocks may be apart.
        ring: Gives the current keys; it is asked for each token.
        issuer: Whose they are: the `iss` claim.
        audience: Whom they are for: the `aud` claim.
    """

    def __init__(
        self, settings: SecuritySettings, ring: Callable[[], KeyRing], *, issuer: str, audience: str
    ) -> None:
        self._ttl_seconds = int(settings.access_ttl.total_seconds())
        self._ring = ring
        self._issuer = issuer
        self._audience = audience
        self._verifier = TokenVerifier(settings, issuer=issuer, audience=audience)

    def issue(
        self,
        subject: str,
        *,
        client_id: str,
        scopes: Iterable[str] = (),
        session: str | None = None,
        now: datetime | None = None,
    ) -> IssuedToken:
        """Return a token that says who its bearer is, and what it may do.

        Args:
            subject: The id of the user, or of the client for a token of its own.
            client_id: The client that it is given to.
            scopes: What its bearer may do.
            session: The login that it belongs to; without one it cannot be revoked.
            now: The present.

        Raises:
            UsageError: A scope has a character that RFC 6749 does not allow, such as a space, which would
                make two of it.
        """
        granted = sorted(scopes)
        for scope in granted:
            if _SCOPE.fullmatch(scope) is None:
                raise UsageError(f"{scope!r} is no scope: those are ASCII, without spaces and quotes.")
        moment = now or datetime.now(UTC)
        issued_at = int(moment.timestamp())
        claims: dict[str, object] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "client_id": client_id,
            "iat": issued_at,
            "exp": issued_at + self._ttl_seconds,
            "jti": secrets.token_urlsafe(_TOKEN_ID_BYTES),
            "scope": " ".join(granted),
        }
        if session is not None:
            claims["sid"] = session
        return IssuedToken(SecretStr(self._sign(claims, moment)), self._ttl_seconds)

    def _sign(self, claims: dict[str, object], now: datetime) -> str:
        key = self._ring().signing_key(now)
        header = {"alg": key.algorithm, "kid": key.key_id, "typ": "at+jwt"}
        message = f"{encode_segment(dumps(header))}.{encode_segment(dumps(claims))}"
        return f"{message}.{encode_segment(sign(key.algorithm, key.material, message.encode()))}"

    def verify(self, token: str, *, now: datetime | None = None) -> Claims:
        """Return what a token says, when it is one of ours and good at this moment.

        Whether its session was revoked is another question, for the database.

        Raises:
            InvalidTokenError: It is not; `reason` tells the rule that it broke.
        """
        moment = now or datetime.now(UTC)
        ring = self._ring()
        return self._verifier.verify(token, lambda key_id: ring.find(key_id, moment), now=moment)


class ForeignTokens:
    """Verify access tokens of another issuer, in the same profile.

    Args:
        settings: How long they may be good, and how far clocks may be apart.
        source: Where its keys come from.
        issuer: Whose they are.
        audience: What they call this service.
    """

    def __init__(self, settings: SecuritySettings, source: KeySource, *, issuer: str, audience: str) -> None:
        self._source = source
        self._issuer = issuer
        self._verifier = TokenVerifier(settings, issuer=issuer, audience=audience)

    async def verify(self, token: str, *, now: datetime | None = None) -> Claims:
        """Return what a token says, when it is one of the issuer's and good at this moment.

        Raises:
            InvalidTokenError: It is not.
        """
        keys = await self._source.keys(self._issuer)
        return self._verifier.verify(token, keys.get, now=now or datetime.now(UTC))

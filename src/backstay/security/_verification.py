"""What a token has to be, rule by rule. Each reason is a word for logs; nothing of the token is kept."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from backstay.errors import InvalidTokenError
from backstay.json import loads
from backstay.security._jwk import verify
from backstay.security.keys import PublicKey
from backstay.settings.security import SecuritySettings

__all__ = ["Claims", "TokenVerifier", "encode_segment"]

_MAX_CHARACTERS: Final = 8 * 1024
_SEGMENTS: Final = 3
_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
_LONGEST_TEXT: Final = 1024


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says.

    Attributes:
        issuer: Who says it.
        subject: Who its bearer is.
        client_id: The client that it was given to.
        scopes: What its bearer may do.
        session: The login that it belongs to.
        token_id: Its own id.
        issued_at: When it was made.
        expires_at: When it ends.
    """

    issuer: str
    subject: str
    client_id: str
    scopes: frozenset[str]
    session: str | None
    token_id: str
    issued_at: datetime
    expires_at: datetime


class TokenVerifier:
    """Check tokens of one issuer for one audience."""

    def __init__(self, settings: SecuritySettings, *, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._ttl_seconds = settings.access_ttl.total_seconds()
        self._leeway_seconds = settings.leeway.total_seconds()

    def verify(self, token: str, find_key: Callable[[str], PublicKey | None], *, now: datetime) -> Claims:
        """Return what the token says.

        Args:
            token: As it came, from anybody.
            find_key: Gives the key with a `kid`, if it may verify now.
            now: The present.

        Raises:
            InvalidTokenError: It breaks a rule.
        """
        segments = _split(token)
        key = _choose_key(_read_object(segments[0]), find_key)
        if not _has_good_signature(key, segments):
            _refuse("bad_signature")
        return self._read_claims(_read_object(segments[1]), now.timestamp())

    def _read_claims(self, claims: Mapping[str, Any], now: float) -> Claims:
        self._check_origin(claims)
        issued_at, expires_at = self._check_times(claims, now)
        return Claims(
            issuer=self._issuer,
            subject=_read_text(claims, "sub"),
            client_id=_read_text(claims, "client_id"),
            scopes=_read_scopes(claims),
            session=_read_text(claims, "sid") if "sid" in claims else None,
            token_id=_read_text(claims, "jti"),
            issued_at=datetime.fromtimestamp(issued_at, UTC),
            expires_at=datetime.fromtimestamp(expires_at, UTC),
        )

    def _check_origin(self, claims: Mapping[str, Any]) -> None:
        if _read_text(claims, "iss") != self._issuer:
            _refuse("wrong_issuer")
        audience = _require(claims, "aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(each, str) for each in audiences):
            _refuse("bad_claim")
        if self._audience not in audiences:
            _refuse("wrong_audience")

    def _check_times(self, claims: Mapping[str, Any], now: float) -> tuple[float, float]:
        issued_at, expires_at = _read_time(claims, "iat"), _read_time(claims, "exp")
        latest = now + self._leeway_seconds
        if issued_at > latest:
            _refuse("issued_in_the_future")
        if "nbf" in claims and _read_time(claims, "nbf") > latest:
            _refuse("not_yet_good")
        if expires_at <= now - self._leeway_seconds:
            _refuse("expired")
        if expires_at - issued_at > self._ttl_seconds or expires_at <= issued_at:
            _refuse("lasts_too_long")
        return issued_at, expires_at


def _refuse(reason: str) -> NoReturn:
    raise InvalidTokenError(reason)


def _split(token: str) -> list[str]:
    if len(token) > _MAX_CHARACTERS:
        _refuse("too_long")
    segments = token.split(".", _SEGMENTS)
    if not token.isascii() or len(segments) != _SEGMENTS:
        _refuse("malformed")
    return segments


def _read_object(segment: str) -> Mapping[str, Any]:
    value = _parse(segment)
    if not isinstance(value, dict):
        _refuse("malformed")
    return value


def _parse(segment: str) -> object:
    """Return the value in a segment; None, which no segment may hold, when it is not written as it must be.

    Nothing is raised in here: the errors of parsers keep what they parse.
    """
    text = _decode(segment)
    if text is None:
        return None
    try:
        value = loads(text)
        json.loads(text, object_pairs_hook=_refuse_repeated)
    except (ValueError, RecursionError):
        return None
    return value


def _decode(segment: str) -> bytes | None:
    try:
        content = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        return None
    # Of the ways to write the same bytes one is good, or a token could be changed and still verify.
    return content if encode_segment(content) == segment else None


def encode_segment(content: bytes) -> str:
    """Return bytes as the text that stands between the dots of a token."""
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError


def _choose_key(header: Mapping[str, Any], find_key: Callable[[str], PublicKey | None]) -> PublicKey:
    """Return the key that a header names; where it says that keys can be found is not looked at."""
    kind = header.get("typ")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        _refuse("wrong_type")
    if "crit" in header or "b64" in header:
        _refuse("unknown_extension")
    key_id = header.get("kid")
    key = find_key(key_id) if isinstance(key_id, str) else None
    if key is None:
        _refuse("unknown_key")
    if header.get("alg") != key.algorithm:
        _refuse("wrong_algorithm")
    return key


def _has_good_signature(key: PublicKey, segments: list[str]) -> bool:
    header, payload, signature = segments
    content = _decode(signature)
    message = f"{header}.{payload}".encode()
    return content is not None and verify(key.algorithm, key.material, message, signature=content)


def _require(claims: Mapping[str, Any], name: str) -> Any:
    if name not in claims:
        _refuse("missing_claim")
    return claims[name]


def _read_text(claims: Mapping[str, Any], name: str) -> str:
    value = _require(claims, name)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT or "\0" in value:
        _refuse("bad_claim")
    return value


def _read_time(claims: Mapping[str, Any], name: str) -> float:
    value = _require(claims, name)
    if type(value) not in (int, float) or value < 0:
        _refuse("bad_claim")
    return float(value)


def _read_scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        _refuse("bad_claim")
    return frozenset(scope.split(" ")) - {""}

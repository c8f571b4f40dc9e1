"""The keys that sign access tokens: one algorithm each, published before they sign, kept while they verify.

A ring is a fact, and rotating makes another one. What a service signs with and verifies by at a moment
follows from the times in the ring alone, so that processes that read the same file agree without talking.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from backstay.errors import ConfigurationError
from backstay.security._jwk import MIN_RSA_BITS, MIN_SECRET_BYTES, PrivateMaterial, PublicMaterial, to_jwk
from backstay.settings.security import MAX_ACCESS_TTL, MAX_LEEWAY, SigningAlgorithm

__all__ = [
    "DEFAULT_OVERLAP",
    "JWKS_MAX_AGE",
    "KeyRing",
    "KeySource",
    "PublicKey",
    "SigningKey",
    "generate_key",
    "rotate",
]

JWKS_MAX_AGE: Final = timedelta(minutes=5)
"""For how long others may go on with the public keys that they have."""

DEFAULT_OVERLAP: Final = MAX_ACCESS_TTL + JWKS_MAX_AGE
"""How long a new key is published before it signs."""

# Besides what a token may last: for the machine that hears of the new key last.
_MARGIN: Final = timedelta(minutes=1)
_VERIFIES_AFTER: Final = MAX_ACCESS_TTL + MAX_LEEWAY + _MARGIN


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a token's signature is verified with.

    Attributes:
        key_id: Its `kid`.
        algorithm: The one that it is for.
        material: The key itself; for HS256 the shared secret.
    """

    key_id: str
    algorithm: SigningAlgorithm
    material: PublicMaterial = field(repr=False)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, or for HS256 a shared secret, with the times of its life.

    Attributes:
        key_id: Its `kid`.
        algorithm: The one that it is for.
        material: The key itself.
        signs_from: When it begins to sign.
        verifies_until: When its tokens are no longer accepted; None while no other key follows it.
    """

    key_id: str
    algorithm: SigningAlgorithm
    material: PrivateMaterial = field(repr=False)
    signs_from: datetime
    verifies_until: datetime | None = None

    @property
    def public(self) -> PublicKey:
        """The half that verifies."""
        material = self.material if isinstance(self.material, bytes) else self.material.public_key()
        return PublicKey(self.key_id, self.algorithm, material)

    def is_alive(self, now: datetime) -> bool:
        """Return whether its tokens are accepted."""
        return self.verifies_until is None or now < self.verifies_until


class KeySource(Protocol):
    """Where the keys of other issuers come from, such as their JWK Set over HTTP."""

    async def keys(self, issuer: str) -> Mapping[str, PublicKey]:
        """Return the keys of an issuer by their ids; none for one that is not known."""


class KeyRing:
    """The keys of one issuer.

    Args:
        keys: In the order in which they begin to sign.
        is_development: Whether they were made by themselves; production refuses such.
    """

    __slots__ = ("_public", "is_development", "keys")

    def __init__(self, keys: tuple[SigningKey, ...], *, is_development: bool = False) -> None:
        self.keys: Final = tuple(sorted(keys, key=_signs_from))
        self.is_development: Final = is_development
        # Taking the public half out of a private key is no work for each request.
        self._public = {key.key_id: (key, key.public) for key in self.keys}

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(f'{key.algorithm} {key.key_id}' for key in self.keys)})"

    def signing_key(self, now: datetime) -> SigningKey:
        """Return the key that signs at this moment.

        Raises:
            ConfigurationError: The time of all of them is over.
        """
        alive = [key for key in self.keys if key.is_alive(now)]
        if not alive:
            raise ConfigurationError(
                "The time of all keys for access tokens is over.",
                hint="backstay keys list shows it; move the file away, then: backstay keys generate",
            )
        # Where none signs yet, the first one does: it was made just now, by a clock that is ahead of ours.
        return next((key for key in reversed(alive) if key.signs_from <= now), alive[0])

    def find(self, key_id: str, now: datetime) -> PublicKey | None:
        """Return the key that verifies tokens with this `kid` at this moment, if there is one.

        One that does not sign yet is among them: the clock of the machine that signs may be ahead.
        """
        found = self._public.get(key_id)
        return found[1] if found is not None and found[0].is_alive(now) else None

    def public_set(self, now: datetime | None = None) -> dict[str, list[dict[str, object]]]:
        """Return the JWK Set for everybody: public keys that are alive, and no shared secrets."""
        moment = now or datetime.now(UTC)
        alive = [public for key, public in self._public.values() if key.is_alive(moment)]
        return {"keys": [_publish(public) for public in alive if public.algorithm != "HS256"]}


def _publish(key: PublicKey) -> dict[str, object]:
    return {"kid": key.key_id, "alg": key.algorithm, "use": "sig", **to_jwk(key.algorithm, key.material)}


def _signs_from(key: SigningKey) -> datetime:
    return key.signs_from


def generate_key(algorithm: SigningAlgorithm, *, signs_from: datetime | None = None) -> SigningKey:
    """Return a new key with a random id.

    Args:
        algorithm: What it is for.
        signs_from: When it begins to sign; at once when None.
    """
    begin = (signs_from or datetime.now(UTC)).replace(microsecond=0)
    return SigningKey(secrets.token_hex(8), algorithm, _MAKERS[algorithm](), signs_from=begin)


_MAKERS: Final[Mapping[SigningAlgorithm, Callable[[], PrivateMaterial]]] = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=MIN_RSA_BITS),
    "HS256": lambda: secrets.token_bytes(MIN_SECRET_BYTES),
}


def rotate(
    ring: KeyRing,
    *,
    now: datetime,
    overlap: timedelta = DEFAULT_OVERLAP,
    algorithm: SigningAlgorithm | None = None,
) -> KeyRing:
    """Return the ring with one more key, which signs only when everybody can have heard of it.

    The key before it verifies until its last token has expired; keys whose time is over are left out.

    Args:
        ring: What there is now.
        now: The present.
        overlap: How long the new key is published before it signs.
        algorithm: Of the new key; that of the last one when None.

    Raises:
        ConfigurationError: The overlap is shorter than others may go on with the keys that they have.
    """
    if overlap < DEFAULT_OVERLAP:
        raise ConfigurationError(
            f"An overlap of {_minutes(overlap)} minutes is too short: others may know the present keys only, "
            f"for {_minutes(DEFAULT_OVERLAP)} minutes.",
            hint="To replace a key that was stolen, move its file away, then: backstay keys generate",
        )
    following = generate_key(algorithm or ring.keys[-1].algorithm, signs_from=now + overlap)
    alive = [key for key in ring.keys if key.is_alive(now)]
    keys = sorted([*alive, following], key=_signs_from)
    return KeyRing(tuple(_close(keys)), is_development=ring.is_development)


def _minutes(span: timedelta) -> int:
    return round(span / timedelta(minutes=1))


def _close(keys: list[SigningKey]) -> Iterator[SigningKey]:
    """Give each key the end that follows from when the next one signs, or the earlier one that it has."""
    for key, following in pairwise(keys):
        end = following.signs_from + _VERIFIES_AFTER
        yield replace(key, verifies_until=min(end, key.verifies_until or end))
    yield keys[-1]

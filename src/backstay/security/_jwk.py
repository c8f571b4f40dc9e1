"""Keys as JSON Web Keys, what each has to be for its algorithm, and signatures: the part that is PyJWT's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import PyJWTError
from jwt.algorithms import get_default_algorithms
from typing_extensions import TypeIs

from backstay.settings.security import SigningAlgorithm

__all__ = [
    "MIN_RSA_BITS",
    "MIN_SECRET_BYTES",
    "PrivateMaterial",
    "PublicMaterial",
    "UnsuitableKeyError",
    "from_jwk",
    "is_private",
    "sign",
    "to_jwk",
    "verify",
]

PrivateMaterial: TypeAlias = (
    ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | bytes
)
"""What signs; bytes are the secret of HS256."""

PublicMaterial: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey | bytes
"""What verifies; bytes are the secret of HS256."""

MIN_RSA_BITS: Final = 3072
MIN_SECRET_BYTES: Final = 32


class UnsuitableKeyError(Exception):
    """A JSON Web Key is none, or is not good for its algorithm; the message holds nothing of the key."""


def to_jwk(algorithm: SigningAlgorithm, material: PrivateMaterial | PublicMaterial) -> dict[str, Any]:
    """Return the members of a key that depend on its kind."""
    members: dict[str, Any] = _ALGORITHMS[algorithm].to_jwk(material, as_dict=True)
    members.pop("key_ops", None)  # `use` says it
    return members


def from_jwk(members: Mapping[str, Any]) -> tuple[SigningAlgorithm, PrivateMaterial | PublicMaterial]:
    """Return what a JSON Web Key holds.

    Raises:
        UnsuitableKeyError: It is none, is weak, or its `alg` is missing or does not fit.
    """
    algorithm: SigningAlgorithm | None = next(
        (name for name in _SUITABLE if name == members.get("alg")), None
    )
    if algorithm is None:
        raise UnsuitableKeyError(f"alg must be one of {', '.join(_SUITABLE)}")
    try:
        material = _ALGORITHMS[algorithm].from_jwk(dict(members))
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        # From None: the errors of parsers quote what they parse.
        raise UnsuitableKeyError(f"it is no complete key for {algorithm}") from None
    is_suitable, must_be = _SUITABLE[algorithm]
    if not is_suitable(material):
        raise UnsuitableKeyError(f"a key for {algorithm} must be {must_be}")
    return algorithm, material


def sign(algorithm: SigningAlgorithm, material: PrivateMaterial, message: bytes) -> bytes:
    """Return the signature of a message."""
    signature: bytes = _ALGORITHMS[algorithm].sign(message, material)
    return signature


def verify(
    algorithm: SigningAlgorithm, material: PublicMaterial, message: bytes, *, signature: bytes
) -> bool:
    """Return whether a signature, which may be any bytes, is that of the message."""
    try:
        return bool(_ALGORITHMS[algorithm].verify(message, material, signature))
    except (PyJWTError, ValueError):
        return False


def is_private(material: PrivateMaterial | PublicMaterial) -> TypeIs[PrivateMaterial]:
    """Return whether it can sign."""
    return isinstance(
        material, bytes | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    )


def _is_ed25519(material: object) -> bool:
    return isinstance(material, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey)


def _is_p256(material: object) -> bool:
    return isinstance(getattr(material, "curve", None), ec.SECP256R1)


def _is_long_rsa(material: object) -> bool:
    return isinstance(material, rsa.RSAPrivateKey | rsa.RSAPublicKey) and material.key_size >= MIN_RSA_BITS


def _is_long_secret(material: object) -> bool:
    return isinstance(material, bytes) and len(material) >= MIN_SECRET_BYTES


_SUITABLE: Final[Mapping[SigningAlgorithm, tuple[Callable[[object], bool], str]]] = {
    "EdDSA": (_is_ed25519, "of the curve Ed25519"),
    "ES256": (_is_p256, "of the curve P-256"),
    "RS256": (_is_long_rsa, f"RSA of at least {MIN_RSA_BITS} bits"),
    "HS256": (_is_long_secret, f"a secret of at least {MIN_SECRET_BYTES} bytes"),
}
_ALGORITHMS: Final[Mapping[str, Any]] = {name: get_default_algorithms()[name] for name in _SUITABLE}

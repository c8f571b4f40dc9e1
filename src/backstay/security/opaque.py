"""Tokens that mean nothing by themselves: random, and stored as digests only.

A refresh token has a successor, which whoever holds the token may have to be told a second time. It is stored
sealed under the token itself, which the database does not have.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["hash_token", "new_token", "seal", "unseal"]

_TOKEN_BYTES: Final = 32
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"backstay: the successor of a refresh token"


def new_token() -> str:
    """Return a new token of 256 random bits, in characters that are safe in URLs."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def hash_token(token: str) -> str:
    """Return what is stored instead of a token; nobody guesses 256 bits, so a quick hash is enough."""
    # What is no text in UTF-8 is no token of ours, and has a digest that none of them has.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def seal(content: str, token: str) -> bytes:
    """Return a text so that only who has the token can read it."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(_derive_key(token)).encrypt(nonce, content.encode(), None)


def unseal(sealed: bytes, token: str) -> str | None:
    """Return the text that was sealed; None when it was not with this token, or was changed."""
    nonce, content = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return AESGCM(_derive_key(token)).decrypt(nonce, content, None).decode()
    except (InvalidTag, ValueError):
        return None


def _derive_key(token: str) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=_PURPOSE).derive(token.encode(errors="surrogatepass"))

"""API keys: `<prefix>_<key id>_<secret><checksum>`.

The prefix tells a scanner for leaked secrets whose they are, the id finds the row, and the checksum tells a
typing error from a key that was revoked, without the database.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from backstay.errors import UsageError
from backstay.security.opaque import hash_token

__all__ = ["NewApiKey", "ReadApiKey", "new_api_key", "read_api_key"]

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_CHARACTERS: Final = 16
_SECRET_CHARACTERS: Final = 43  # 256 bits
_CHECKSUM_CHARACTERS: Final = 6  # 32 bits
_PREFIX: Final = r"[a-z][a-z0-9]{0,19}"
_KEY: Final = re.compile(
    rf"(?P<body>{_PREFIX}_(?P<key_id>[0-9A-Za-z]{{{_ID_CHARACTERS}}})_[0-9A-Za-z]{{{_SECRET_CHARACTERS}}})"
    rf"(?P<checksum>[0-9A-Za-z]{{{_CHECKSUM_CHARACTERS}}})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was just made; its text is shown once, to its owner.

    Attributes:
        key_id: What it is found and listed by; no secret.
        key: The whole text.
        digest: What is stored.
    """

    key_id: str
    key: SecretStr
    digest: str


@dataclass(frozen=True, slots=True)
class ReadApiKey:
    """A text that has the form of a key; whether it is one says the row with its id.

    Attributes:
        key_id: The row's.
        digest: What the row must have, compared by `secrets.compare_digest`.
    """

    key_id: str
    digest: str


def new_api_key(prefix: str) -> NewApiKey:
    """Return a new key with 256 random bits.

    Args:
        prefix: Whose keys they are: a small letter, then up to 19 small letters and digits.

    Raises:
        UsageError: The prefix is none.
    """
    if re.fullmatch(_PREFIX, prefix, re.ASCII) is None:
        raise UsageError(f"{prefix!r} is no prefix for API keys: it takes 1 to 20 small letters and digits.")
    key_id = _draw(_ID_CHARACTERS)
    body = f"{prefix}_{key_id}_{_draw(_SECRET_CHARACTERS)}"
    key = body + _compute_checksum(body)
    return NewApiKey(key_id, SecretStr(key), hash_token(key))


def read_api_key(text: str) -> ReadApiKey | None:
    """Return what a text says as a key; None when it is none, or has a typing error."""
    found = _KEY.fullmatch(text)
    if found is None or _compute_checksum(found["body"]) != found["checksum"]:
        return None
    return ReadApiKey(found["key_id"], hash_token(text))


def _draw(characters: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(characters))


def _compute_checksum(body: str) -> str:
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_CHARACTERS):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits

"""The passwords that are tried first, as digests; tools/common_passwords.py tells where they come from."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from hashlib import sha256
from importlib.resources import files
from typing import Final

__all__ = ["DIGEST_BYTES", "CommonPasswords", "digest", "fold"]

DIGEST_BYTES: Final = 5


class CommonPasswords:
    """Look words up; they are read at the first look."""

    def __init__(self) -> None:
        self._digests: bytes | None = None

    def __len__(self) -> int:
        return len(self._read()) // DIGEST_BYTES

    def __getitem__(self, index: int) -> bytes:
        return self._read()[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def __contains__(self, word: str) -> bool:
        wanted = digest(fold(word))
        position = bisect_left(self, wanted)
        return position < len(self) and self[position] == wanted

    def _read(self) -> bytes:
        if self._digests is None:
            self._digests = files("backstay.security").joinpath("common_passwords.bin").read_bytes()
        return self._digests


def fold(word: str) -> str:
    """Return a word as it is compared: without the difference of capital and small letters."""
    return unicodedata.normalize("NFC", word).casefold()


def digest(folded: str) -> bytes:
    """Return what stands for a word that was folded."""
    return sha256(folded.encode()).digest()[:DIGEST_BYTES]

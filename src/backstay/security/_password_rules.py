"""What a new password has to be: long, and none of those that are tried first. No rules of composition.

The lengths are NIST's (SP 800-63B-4): characters are counted as code points, and nothing is cut off.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from backstay.errors import WeakPasswordError
from backstay.security._common_passwords import CommonPasswords, fold
from backstay.settings import SecuritySettings

__all__ = ["PasswordRules", "encode_password"]

_SHORTEST_CONTEXT: Final = 4
_SHORTEST_REST: Final = 8


def encode_password(password: str) -> bytes | None:
    """Return the bytes that are hashed; None for what no keyboard makes, a lone surrogate.

    Letters with accents come in two spellings, depending on the keyboard; NFC makes one of them, as RFC 8265
    asks for passwords. NFKC would also take ² for 2, and so make passwords weaker.
    """
    try:
        return unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        return None


class PasswordRules:
    """Check new passwords."""

    def __init__(self, settings: SecuritySettings) -> None:
        self._min_length = settings.password_min_length
        self._max_bytes = settings.password_max_bytes
        self._common = CommonPasswords()

    def check(self, password: str, *, context: Sequence[str]) -> None:
        """Refuse a password that is too weak.

        Raises:
            WeakPasswordError: It says what to do, and nothing of the password.
        """
        self._check_length(password)
        folded = fold(password)
        if folded in self._common or _is_pattern(folded):
            raise WeakPasswordError(
                "This password is among those that are tried first; choose another one.", reason="common"
            )
        rest = _cut_out(folded, _list_words(context))
        if rest != folded and (len(rest) < _SHORTEST_REST or rest in self._common or _is_pattern(rest)):
            raise WeakPasswordError(
                "This password is little more than names that others know; choose another one.",
                reason="context",
            )

    def _check_length(self, password: str) -> None:
        encoded = encode_password(password)
        if encoded is None:
            raise WeakPasswordError("The password is no text; type it again.", reason="not_text")
        if len(encoded) > self._max_bytes:
            raise WeakPasswordError(
                f"Use a shorter password: it may take {self._max_bytes} bytes.", reason="too_long"
            )
        if len(encoded.decode()) < self._min_length:
            raise WeakPasswordError(
                f"Use at least {self._min_length} characters; several words in a row are easy to remember.",
                reason="too_short",
            )


def _is_pattern(text: str) -> bool:
    """Return whether a text is a short piece that is repeated, or a run such as abcdef or 987654."""
    if _REPEATED.fullmatch(text):
        return True
    steps = {ord(following) - ord(character) for character, following in pairwise(text)}
    return len(text) > 1 and (steps <= _UPWARD or steps <= _DOWNWARD)


_REPEATED: Final = re.compile(r"(.{1,8})\1+.{0,2}", re.DOTALL)
# The second of each is from 9 on to 0, or back.
_UPWARD: Final = {1, -9}
_DOWNWARD: Final = {-1, 9}


def _list_words(context: Iterable[str]) -> list[str]:
    """Return the words, longest first, that others know: names, and addresses with their parts."""
    words = {word for text in context for word in _split(fold(text)) if len(word) >= _SHORTEST_CONTEXT}
    return sorted(words, key=lambda word: (-len(word), word))


def _split(text: str) -> Iterator[str]:
    yield text
    yield text.partition("@")[0]
    yield from re.split(r"[\W_]+", text)


def _cut_out(text: str, words: Iterable[str]) -> str:
    """Return what is left without these words, and without what joins them."""
    rest = text
    for word in words:
        rest = rest.replace(word, "")
    return rest if rest == text else re.sub(r"^[\W_]+|[\W_]+$", "", rest)

"""How hard the secrets among the settings are to guess."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import log2
from typing import Final

from pydantic import BaseModel

from backstay.settings._fields import find_entries, iterate_secrets, list_fields, read_value

__all__ = ["find_weak_secrets"]

_ALPHABETS: Final = ((r"\d+", 10), (r"[0-9a-f]+|[0-9A-F]+", 16), (r"[a-z0-9]+", 36), (r"[A-Za-z0-9]+", 62))
_TEXT: Final = 64
_FEWEST_SIGNS: Final = 8


def find_weak_secrets(settings: BaseModel, *, bits: int) -> Iterator[str]:
    """Yield the variables of the secrets that have fewer bits than that; URLs are not looked at."""
    for field in list_fields(type(settings), find_entries(settings)):
        secrets = iterate_secrets(read_value(settings, field))
        is_chosen = field.is_single and field.is_secret and not field.is_url
        if is_chosen and any(_count_bits(secret) < bits for secret in secrets):
            yield field.variable


def _count_bits(secret: str) -> float:
    """Return how many bits a secret has, if it was drawn from the smallest alphabet that it fits."""
    if len(set(secret)) < _FEWEST_SIGNS:
        return 0.0
    size = next((size for signs, size in _ALPHABETS if re.fullmatch(signs, secret)), _TEXT)
    return len(secret) * log2(size)

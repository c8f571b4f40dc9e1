"""Values as parts of keys: with their type, and escaped, so that no two of them meet by accident."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from pydantic import BaseModel

from backstay.errors import UsageError

__all__ = ["as_key_part", "as_name"]


def as_key_part(value: object) -> str:
    """Return a value with its type: `1`, `'1'` and `true` differ, and none of them holds `:`, `/` or `|`.

    Raises:
        UsageError: The value has no form that is the same in every process.
    """
    encode = _ENCODERS.get(type(value))
    return encode(value) if encode is not None else _encode_other(value)


def as_name(value: object) -> str:
    """Return a value without its type, for the tag that a key is forgotten by: 7 and "7" are one."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, str):
        return _name_of_text(value)
    return as_key_part(value)


def _name_of_text(text: str) -> str:
    if text.isalnum() and text.isascii() and len(text) != _UUID_DIGITS:
        return text
    if len(text) in (_UUID_DIGITS, _UUID_DIGITS + 4):
        try:
            return UUID(text).hex
        except ValueError:
            pass
    return _escape(text)


_UUID_DIGITS: Final = 32


def _escape(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def _encode_text(value: str) -> str:
    return f"'{value}'" if value.isalnum() and value.isascii() else f"'{_escape(value)}'"


def _typed(name: str, encode: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: f"{name}'{_escape(encode(value))}'"


def _encode_sequence(value: tuple[object, ...] | list[object]) -> str:
    return f"({','.join(map(as_key_part, value))})"


def _encode_set(value: frozenset[object] | set[object]) -> str:
    return f"{{{','.join(sorted(map(as_key_part, value)))}}}"


_ENCODERS: Final[dict[type, Callable[[Any], str]]] = {
    int: str,
    str: _encode_text,
    bool: lambda value: "true" if value else "false",
    type(None): lambda value: "none",
    UUID: lambda value: f"uuid'{value.hex}'",
    float: _typed("float", repr),
    Decimal: _typed("decimal", str),
    datetime: _typed("datetime", datetime.isoformat),
    date: _typed("date", date.isoformat),
    time: _typed("time", time.isoformat),
    timedelta: _typed("timedelta", repr),
    bytes: _typed("bytes", bytes.hex),
    tuple: _encode_sequence,
    list: _encode_sequence,
    set: _encode_set,
    frozenset: _encode_set,
}


def _encode_other(value: object) -> str:
    name = type(value).__qualname__
    if isinstance(value, Enum):
        return f"{_escape(name)}'{as_key_part(value.value)}'"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [as_key_part(getattr(value, one.name)) for one in dataclasses.fields(value)]
        return f"{_escape(name)}({','.join(fields)})"
    if isinstance(value, BaseModel):
        return f"{_escape(name)}'{_escape(value.model_dump_json())}'"
    for kind in (UUID, datetime, *_ENCODERS):  # subclasses, such as a driver's own UUID
        if isinstance(value, kind):
            return _ENCODERS[kind](value)
    raise UsageError(
        f"A {name} cannot be part of a cache key: name an attribute of it in the template, such as {{x.id}}."
    )

"""What must not reach a line: secrets, control characters, endless values.

The first look at a string costs a fraction of a microsecond and lets nearly all of them pass as they are.
Only what looks suspicious is taken apart.
"""

import math
import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from backstay.redaction import REDACTED, Redactor

FIELD_BYTES = 8192
_CUT = "…[cut]"
# Above this a string may pass the limit in bytes: UTF-8 takes up to four for one character.
_SURELY_SHORT = FIELD_BYTES // 4
# A secret that straddles the limit is recognised by what follows it: look further than what is kept.
_LOOKAHEAD = 1024
_MOST_KEYS = 1024
_MOST_PHRASES = 1024
_PHRASE_CHARACTERS = 128
_DEEPEST = 6
_SMALLEST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**64 - 1
_AS_TEXT = (date, time, Decimal, UUID, PurePath)

# C0, DEL, C1; marks, embeddings, overrides and isolates that reorder text; line and paragraph separators;
# surrogates.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NAMED_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

# SQLAlchemy appends the parameters to the message; whatever stands before its closing line is one of them.
_SQL_PARAMETERS = re.compile(r"\[parameters: .*(?=\n\(Background on this error)|\[parameters: .*", re.DOTALL)
# PostgreSQL's DETAIL quotes the row: `Key (email)=(a@b.c) already exists`, `Failing row contains (...)`.
_SQL_ROW = re.compile(
    r"(Key \([^\n]{0,200}?\)=|Failing row contains )\(.*?(?=\n\[SQL: |\n[A-Z]{4,8}:  |\Z)", re.DOTALL
)


class Scrubber:
    """Makes an event safe to show: plain JSON values, redacted, bounded, without control characters.

    Args:
        redactor: Decides by key and by type, and knows what secrets look like in text.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._keys: dict[object, tuple[str, bool]] = {}
        self._harmless: set[str] = set()

    def clean_event(self, event: Mapping[str, object]) -> dict[str, object]:
        """Return the event with every field safe; a value that cannot be shown leaves its type behind."""
        known, harmless = self._keys, self._harmless
        cleaned: dict[str, object] = {}
        for key, value in event.items():
            name, is_sensitive = known.get(key) or self._judge_key(key)
            kind = type(value)
            if is_sensitive and value is not None and kind is not bool:
                cleaned[name] = REDACTED
            elif type(value) is str:
                # Our own timestamp holds colons, which would cost a search for headers in each line.
                is_clean = value in harmless or (key == "timestamp" and value.isprintable())
                cleaned[name] = value if is_clean else self._clean_phrase(value)
            else:
                cleaned[name] = value if kind is bool or value is None else self.clean_value(value)
        return cleaned

    def clean_text(self, text: str) -> str:
        """Return the text without secrets and control characters, at most 8 KB of it."""
        if len(text) > _SURELY_SHORT:
            return self._clean_long_text(text)
        return escape_control(self._redact_text(text))

    def clean_value(self, value: object) -> object:
        """Return the value as plain JSON values, at most 8 KB of them."""
        kind = type(value)
        if kind is float or kind is int:
            return _show_number(value)
        try:
            return self._reduce(value, _Room(), 0)
        except Exception:  # noqa: BLE001  a value's own code failed; the event must still be told
            return self.clean_text(f"<unloggable {type(value).__name__}>")

    def _clean_phrase(self, text: str) -> str:
        """Clean a text, and remember if it is harmless: levels, names, events and routes come again."""
        cleaned = self.clean_text(text)
        if cleaned == text and len(text) <= _PHRASE_CHARACTERS:
            if len(self._harmless) >= _MOST_PHRASES:
                self._harmless.clear()
            self._harmless.add(text)
        return cleaned

    def _judge_key(self, key: object) -> tuple[str, bool]:
        text = key.decode("latin-1") if isinstance(key, bytes) else str(key)
        judgement = self.clean_text(text), self._redactor.is_sensitive_key(text)
        # Keys may come from outside, such as a body's field names: remember the first ones only.
        if len(self._keys) < _MOST_KEYS:
            self._keys[key] = judgement
        return judgement

    def _redact_text(self, text: str) -> str:
        if "[parameters: " in text:
            text = _SQL_PARAMETERS.sub(f"[parameters: {REDACTED}]", text)
        if "Key (" in text or "Failing row" in text:
            text = _SQL_ROW.sub(rf"\1{REDACTED}", text)
        return self._redactor.redact_text(text)

    def _clean_long_text(self, text: str) -> str:
        is_cut = len(text) > FIELD_BYTES + _LOOKAHEAD
        text = self._redact_text(text[: FIELD_BYTES + _LOOKAHEAD])
        if is_cut:
            text = text[:-_LOOKAHEAD] + _CUT
        return _cut(escape_control(text), FIELD_BYTES)

    def _reduce(self, value: object, room: "_Room", depth: int) -> object:
        if depth > _DEEPEST or room.is_full:
            return _CUT
        if isinstance(value, Enum):
            return self._reduce(value.value, room, depth + 1)
        if value is None or isinstance(value, (bool, int, float)):
            return room.fit_number(value)
        if type(value) is str:
            return room.fit_text(self.clean_text(value))
        return self._reduce_container(value, room, depth)

    def _reduce_container(self, value: object, room: "_Room", depth: int) -> object:
        if isinstance(value, Mapping):
            return self._reduce_mapping(value.items(), room, depth)
        if isinstance(value, (list, AbstractSet)):
            return self._reduce_items(value, room, depth)
        return self._reduce_object(value, room, depth)

    def _reduce_mapping(
        self, items: Iterable[tuple[object, object]], room: "_Room", depth: int
    ) -> dict[str, object]:
        reduced: dict[str, object] = {}
        for key, value in items:
            if room.is_full:
                reduced[_CUT] = _CUT
                break
            name, is_sensitive = self._judge_key(key)
            is_secret = is_sensitive and value is not None and not isinstance(value, bool)
            name = room.fit_text(name)
            reduced[name] = room.fit_text(REDACTED) if is_secret else self._reduce(value, room, depth + 1)
        return reduced

    def _reduce_items(self, items: Iterable[object], room: "_Room", depth: int) -> list[object]:
        reduced: list[object] = []
        for item in items:
            if room.is_full:
                reduced.append(_CUT)
                break
            reduced.append(self._reduce(item, room, depth + 1))
        return reduced

    def _reduce_object(self, value: object, room: "_Room", depth: int) -> object:
        # The redactor knows the types: secrets, marked fields, named tuples, pairs that are headers.
        redacted = self._redactor.redact(value)
        if isinstance(redacted, tuple):
            return self._reduce_items(redacted, room, depth)
        if redacted is not value:
            return self._reduce(redacted, room, depth + 1)
        if isinstance(value, BaseModel):
            return self._reduce_mapping(value, room, depth)
        if is_dataclass(value) and not isinstance(value, type):
            members = ((field.name, getattr(value, field.name, None)) for field in fields(value))
            return self._reduce_mapping(members, room, depth)
        return room.fit_text(self.clean_text(_describe(value)))


def escape_control(text: str) -> str:
    """Return the text with control characters written out: ESC as a backslash and `x1b`."""
    return text if text.isprintable() else _CONTROL.sub(_escape, text)


class _Room:
    """What is left of the bytes that one field may take."""

    def __init__(self) -> None:
        # Less what the markers take that end each level of a nested value.
        self._left = FIELD_BYTES - (_DEEPEST + 2) * len(_CUT.encode())

    @property
    def is_full(self) -> bool:
        return self._left <= 0

    def fit_text(self, text: str) -> str:
        fitting = _cut(text, max(self._left, len(_CUT.encode())))
        self._take(len(fitting.encode()))
        return fitting

    def fit_number(self, number: object) -> object:
        shown = _show_number(number)
        if isinstance(shown, str):
            return self.fit_text(shown)
        self._take(len(str(shown)))
        return shown

    def _take(self, size_bytes: int) -> None:
        # Quotes, a separator: an endless list of empty strings takes room, too.
        self._left -= size_bytes + 4


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    return _NAMED_ESCAPES.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _cut(text: str, most_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= most_bytes:
        return text
    return encoded[: most_bytes - len(_CUT.encode())].decode(errors="ignore") + _CUT


def _show_number(number: object) -> object:
    if isinstance(number, float):
        return float(number) if math.isfinite(number) else str(float(number))
    if isinstance(number, int) and not _SMALLEST_INTEGER <= number <= _LARGEST_INTEGER:
        return _cut(hex(number), FIELD_BYTES)
    return number


def _describe(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(to_jsonable_python(value))
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "backslashreplace")
    return str(value) if isinstance(value, (str, *_AS_TEXT)) else repr(value)

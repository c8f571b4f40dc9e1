"""One JSON encoder for the whole house, which never changes a value silently.

`orjson` is as fast as it gets and has two habits that we do not share: it writes NaN and Infinity as `null`,
and it reads an integer beyond 64 bits as a float. Both are errors here. What the checks cost: `dumps` looks
again only at values whose text contains `null`; `loads` looks for a run of 19 digits.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from backstay.errors import BackstayError

__all__ = ["JSONDecodeError", "JSONEncodeError", "WideIntegerError", "dumps", "has_repeated_names", "loads"]


class JSONEncodeError(BackstayError, ValueError):
    """A value has no JSON form, or would silently become another value.

    Attributes:
        path: Where it sits, such as `rows[3].price`; empty for the value itself.
        reason: What is wrong with it. The value itself is not shown.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"Cannot encode {path or 'the value'} as JSON: {reason}.")
        self.path = path
        self.reason = reason


class JSONDecodeError(BackstayError, ValueError):
    """A text is not JSON, or holds a number that would silently become another one.

    Attributes:
        reason: What is wrong. The text itself is neither shown nor kept.
        position: The offset in characters at which it was noticed.
    """

    def __init__(self, reason: str, *, position: int) -> None:
        super().__init__(f"Cannot decode JSON: {reason} at character {position}.")
        self.reason = reason
        self.position = position


class WideIntegerError(JSONDecodeError):
    """A text is JSON, and holds an integer that does not fit into 64 bits."""

    def __init__(self, *, position: int) -> None:
        super().__init__("the integer does not fit into 64 bits", position=position)


def dumps(value: object) -> bytes:
    """Return the value as JSON in UTF-8.

    Besides what JSON knows: datetime, date, time, timedelta (ISO 8601), UUID, Enum (its value), Decimal (as
    text), sets (sorted where possible) and tuples (as arrays), paths, dataclasses, Pydantic models (by
    alias), numpy scalars and arrays.

    Raises:
        JSONEncodeError: NaN, Infinity, an integer beyond 64 bits, a lone surrogate, bytes, a key that is not
            text, 254 levels of nesting, or a type without a JSON form; wherever it sits.
    """
    try:
        encoded = orjson.dumps(value, _encode_other)
        # Only a text with `null` in it can have lost a NaN or an Infinity.
        if b"null" in encoded:
            _refuse_lost_floats(value)
    except (orjson.JSONEncodeError, _RefusedError) as error:
        raise _locate(value, error) from error
    return encoded


def loads(data: bytes | bytearray | memoryview | str) -> object:
    """Return the value of a JSON text.

    Raises:
        JSONDecodeError: The text is not JSON in UTF-8, is nested deeper than 1024 levels, has a lone
            surrogate, or holds a number that neither 64 bits nor a finite float can represent.
    """
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        reason, position = error.msg.split(": line ")[0], error.pos
    else:
        _refuse_wide_integers(data)
        return value
    # Raised out here, so that orjson's error, which keeps the whole text, is not carried along.
    raise JSONDecodeError(reason, position=position)


def has_repeated_names(text: bytes, value: object) -> bool:
    """Return whether a name may stand twice in one object of `text`, which `loads` made into `value`.

    False is certain: a member that got lost leaves the text with more colons than the value is written with,
    as long as none is written as an escape. True asks for a closer look.
    """
    return b"\\u003" in text or text.count(b":") != orjson.dumps(value).count(b":")


class _RefusedError(Exception):
    """A value must not be encoded; the message is the reason."""


def _encode_other(value: object) -> object:
    """Return something that orjson can encode in place of what it cannot."""
    for kind, encode in _ENCODERS:
        if isinstance(value, kind):
            return encode(value)
    if type(value).__module__.partition(".")[0] == "numpy":
        return _encode_numpy(value)
    if isinstance(value, float):
        return float(value)
    raise _RefusedError(_describe_refused(value))


def _encode_model(value: BaseModel) -> object:
    return value.model_dump(mode="json", by_alias=True)


def _encode_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise _RefusedError(_NOT_FINITE)
    return str(value)


def _sort(values: Iterable[Any]) -> list[object]:
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)


def _encode_temporal(value: date | time) -> str:
    # pandas.NaT is a datetime that does not equal itself.
    if value != value:  # noqa: PLR0124
        raise _RefusedError("it is not a time")
    return value.isoformat()


_ENCODERS: Final[tuple[tuple[type, Callable[[Any], object]], ...]] = (
    (BaseModel, _encode_model),
    (Decimal, _encode_decimal),
    (set, _sort),
    (frozenset, _sort),
    (PurePath, str),
    (UUID, str),  # asyncpg has a UUID class of its own
    (timedelta, to_jsonable_python),
    (date, _encode_temporal),
    (time, _encode_temporal),
    (tuple, list),
)


def _describe_refused(value: object) -> str:
    kind = type(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"JSON has no form for {kind.__name__}, decode it or use base64"
    return f"{kind.__module__}.{kind.__qualname__} has no JSON form"


_NOT_FINITE: Final = "JSON has no NaN and no Infinity, use None"


def _encode_numpy(value: Any) -> object:
    import numpy as np  # noqa: PLC0415  # only when the value proves that it is installed and loaded

    if not (type(value) is np.ndarray or issubclass(type(value), np.generic)):
        raise _RefusedError(_describe_refused(value))
    if value.dtype.kind in "OU":
        return value.tolist()
    _check_numbers(value)
    if value.ndim:
        plain: Any = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    else:
        plain = value.astype(value.dtype.newbyteorder("="))[()]  # orjson knows no array without dimensions
    return orjson.Fragment(orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY))


def _check_numbers(value: Any) -> None:
    kind = value.dtype.kind
    if kind not in "biufM" or value.dtype.itemsize > 8:
        raise _RefusedError(f"numpy's {value.dtype} has no JSON form")
    if kind == "f" and not (abs(value) < math.inf).all():
        raise _RefusedError(_NOT_FINITE)
    if kind == "M" and not (value == value.astype("datetime64[us]")).all():
        raise _RefusedError("it is not a time, or finer than a microsecond")


def _refuse_lost_floats(value: object) -> None:
    """Refuse a value in which orjson wrote `null` for something that is not None."""
    level: list[object] = [value]
    while level:
        deeper: list[object] = []
        for item in level:
            kind = type(item)
            if kind in _NEVER_LOST:
                continue
            if kind is float:
                if not math.isfinite(item):  # type: ignore[arg-type]  # mypy does not follow `kind`
                    raise _RefusedError(_NOT_FINITE)
            elif kind is dict:
                deeper.extend(item.values())  # type: ignore[attr-defined]  # the same
            elif kind is list or kind is tuple:
                deeper.extend(item)  # type: ignore[arg-type]  # the same
            else:
                deeper.extend(_look_inside(item))
        level = deeper


_NEVER_LOST: Final = frozenset(
    {str, int, bool, type(None), UUID, datetime, date, time, timedelta, Decimal, orjson.Fragment}
)


def _look_inside(value: object) -> Iterable[object]:
    """Return what orjson writes for a value of a less usual type."""
    return (child for _, child in _iterate_children(value))


def _iterate_children(value: object) -> Iterator[tuple[str, object]]:
    """Yield what a value is made of, each with its step in a path; nothing for a leaf."""
    match value:
        case Enum():
            yield "", value.value
        case str() | int():
            return
        case dict():
            for key, child in dict.items(value):
                yield _as_step(key), child
        case list() | tuple():
            for index, child in enumerate(value):
                yield f"[{index}]", child
        case _ if dataclasses.is_dataclass(value):
            for name in _list_written_fields(value):
                yield f".{name}", getattr(value, name)
        case _ if type(value) not in _NEVER_LOST and type(value) is not float:
            yield "", _encode_other(value)


def _as_step(key: object) -> str:
    text = str(key)
    return f".{text}" if text.isidentifier() and len(text) <= 60 else f"[{text[:60]!r}]"


def _list_written_fields(value: object) -> list[str]:
    # As orjson does: the declared fields and what else sits in __dict__; no name with an underscore first.
    declared = [field.name for field in dataclasses.fields(value)]  # type: ignore[arg-type]  # it is a dataclass
    names = dict.fromkeys([*declared, *getattr(value, "__dict__", ())])
    return [name for name in names if not name.startswith("_")]


def _locate(value: object, error: Exception) -> JSONEncodeError:
    """Return the error with the path to its cause; runs only after a failure."""
    path, reason = "", _say(error)
    while not reason.startswith(_TOO_DEEP):
        failing = _find_failing_child(value)
        if failing is None:
            break
        step, value, reason = failing
        path += step
    return JSONEncodeError(path.removeprefix("."), reason)


def _find_failing_child(value: object) -> tuple[str, object, str] | None:
    try:
        for step, child in _iterate_children(value):
            try:
                encoded = orjson.dumps(child, _encode_other)
                if b"null" in encoded:
                    _refuse_lost_floats(child)
            except (orjson.JSONEncodeError, _RefusedError) as error:
                return step, child, _say(error)
    except Exception:  # noqa: BLE001  # taking it apart failed: what is known about it has to do
        return None
    return None


def _say(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(cause, _RefusedError):
        return str(cause)
    if cause is not None:
        return f"taking it apart failed with {type(cause).__name__}"
    return next((reason for sign, reason in _REASONS.items() if sign in str(error)), str(error))


_TOO_DEEP: Final = "it is nested deeper than 254 levels, or contains itself"
_REASONS: Final = {
    "Recursion limit": _TOO_DEEP,
    "recursion limit": _TOO_DEEP,
    "64-bit range": "the integer does not fit into 64 bits, use text",
    "surrogates": "the text holds a lone surrogate, which UTF-8 cannot express",
    "Dict key": "it has a key that is not a plain str, and JSON knows no other keys",
}


def _refuse_wide_integers(data: bytes | bytearray | memoryview | str) -> None:
    """Refuse a text that is valid JSON and holds an integer which orjson read as a float."""
    if len(data) < _WIDE_DIGITS:
        return
    encoded = data.encode() if isinstance(data, str) else bytes(data)
    if b"0" * _WIDE_DIGITS not in encoded.translate(_ALL_DIGITS_TO_ZERO):
        return
    for found in _NUMBER_OR_TEXT.finditer(encoded):
        if found["integer"] and not -(2**63) <= int(found["integer"]) < 2**64:
            position = len(encoded[: found.start()].decode())
            raise WideIntegerError(position=position)


_WIDE_DIGITS: Final = len(str(2**63))
_ALL_DIGITS_TO_ZERO: Final = bytes.maketrans(b"123456789", b"0" * 9)
_NUMBER_OR_TEXT: Final = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<integer>-?[0-9]++)(?![.eE])|-?[0-9]++[.eE+\-0-9]*+', re.DOTALL
)

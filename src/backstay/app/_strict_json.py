"""Read a JSON body so that every reader of it sees the same value, or refuse it.

Parsers differ in what they make of a name that stands twice, of a number with more digits than a float
holds, of a NUL in a text. Where two of them differ, one of them changed the value in silence; so such a text
is refused with the reason. docs/decisions/0012-strict-json.md says what that costs.

Beside being parsed, a plain body is only searched for signs, at the speed of C; the closer look that follows
one costs more.
"""

import json as standard_json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import chain
from typing import Any, Final, TypeAlias

from backstay import json

__all__ = ["NotJSONError", "UnclearJSONError", "read_strictly"]

_Container: TypeAlias = dict[str, Any] | list[Any]


class NotJSONError(Exception):
    """A text is no JSON in UTF-8.

    Attributes:
        position: The offset in characters at which it was noticed.
    """

    def __init__(self, position: int) -> None:
        super().__init__(f"The text is not valid JSON, at character {position}.")
        self.position = position


class UnclearJSONError(Exception):
    """A text is JSON, and has no value that all readers agree on; the message never repeats it.

    Attributes:
        code: What is wrong, as a word for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_strictly(text: bytes, *, max_depth: int, max_values: int) -> object:
    """Return the value of a JSON text.

    Raises:
        NotJSONError: It is not JSON in UTF-8; a byte order mark, NaN, and half of a surrogate pair are none
            either.
        UnclearJSONError: A name stands twice in an object, a number does not fit into 64 bits without loss, a
            text holds a NUL, arrays and objects are nested deeper than `max_depth`, or hold more than
            `max_values` members and items together.
    """
    value = _parse(text, max_depth)
    _refuse_large_structure(text, value, max_depth=max_depth, max_values=max_values)
    if json.has_repeated_names(text, value):
        _refuse_repeated_names(text)
    if b"\\u0000" in text and any("\0" in said for said in _texts([value])):
        raise UnclearJSONError("nul_character", "A text must not hold the character NUL.")
    _refuse_rounded_numbers(text)
    return value


def _parse(text: bytes, max_depth: int) -> object:
    try:
        return json.loads(text)
    except json.WideIntegerError as error:
        refusal: Exception = _too_large("integer", error.position)
    except json.JSONDecodeError as error:
        refusal = _explain(error, max_depth)
    # Raised out here: the parser's error is no part of the story.
    raise refusal


def _explain(error: json.JSONDecodeError, max_depth: int) -> Exception:
    if error.reason.startswith("depth limit"):
        return _too_deep(max_depth)
    if error.reason.startswith("number is infinity"):
        return _too_large("number", error.position)
    return NotJSONError(error.position)


def _too_large(kind: str, position: int) -> UnclearJSONError:
    return UnclearJSONError(
        "number_too_large", f"The {kind} at character {position} does not fit into 64 bits."
    )


def _too_deep(max_depth: int) -> UnclearJSONError:
    return UnclearJSONError(
        "nested_too_deep", f"Arrays and objects are nested deeper than {max_depth} levels."
    )


def _refuse_large_structure(text: bytes, value: object, *, max_depth: int, max_values: int) -> None:
    containers = text.count(b"[") + text.count(b"{")
    # Each value but the first of its container comes after a comma.
    if containers <= max_depth and containers + text.count(b",") <= max_values:
        return
    values, level = 0, _containers([value])
    for _ in range(max_depth):
        values += sum(map(len, level))
        if values > max_values:
            raise UnclearJSONError(
                "too_many_values", f"Arrays and objects hold more than {max_values} values together."
            )
        level = _containers(chain.from_iterable(map(_inside, level)))
        if not level:
            return
    raise _too_deep(max_depth)


def _inside(container: _Container) -> Iterable[Any]:
    return container.values() if type(container) is dict else container


def _containers(values: Iterable[Any]) -> list[_Container]:
    return [value for value in values if type(value) is dict or type(value) is list]


# ---------------------------------------------------------------- repeated names


def _refuse_repeated_names(text: bytes) -> None:
    standard_json.loads(text, object_pairs_hook=_join_pairs)


def _join_pairs(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise UnclearJSONError("repeated_name", "A name stands twice in the same object.")


# ---------------------------------------------------------------- texts


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if type(value) is str:
            yield value
        elif type(value) is dict:
            yield from value
            yield from _texts(value.values())
        elif type(value) is list:
            yield from _texts(value)


# ---------------------------------------------------------------- numbers


def _refuse_rounded_numbers(text: bytes) -> None:
    """Refuse a number of which a float keeps something else: too many digits, or too small to be told from 0.

    17 digits tell each float from its neighbours, so programs that print floats are never refused.
    """
    digits = text.translate(_DIGITS_ALIKE, b".")
    if not any(sign in digits for sign in _SIGNS_OF_ROUNDING) or not _MAYBE_ROUNDED.search(text):
        return
    for found in _NUMBER_OR_TEXT.finditer(text):
        number = found["number"]
        if number and _is_rounded(number.decode()):
            raise UnclearJSONError(
                "number_too_precise",
                f"The number at character {len(text[: found.start()].decode())} does not fit into 64 bits "
                "without loss.",
            )


def _is_rounded(number: str) -> bool:
    mantissa = re.split("[eE]", number)[0]
    digits = mantissa.lstrip("-0.").replace(".", "").rstrip("0")
    if not digits or (mantissa == number and "." not in number):
        return False  # zero, or an integer, which is never rounded
    value = float(number)
    return value == 0 or (len(digits) > _FLOAT_DIGITS and Decimal(number) != Decimal(repr(value)))


_FLOAT_DIGITS: Final = 17
_DIGITS_ALIKE: Final = bytes.maketrans(b"123456789E", b"000000000e")
# A run of more digits than a float holds, and an exponent that may be below the smallest float.
_SIGNS_OF_ROUNDING: Final = (b"0" * (_FLOAT_DIGITS + 1), b"0e-000")
_MAYBE_ROUNDED: Final = re.compile(rb"[1-9][0-9.]{17}|[0-9.][eE]-[0-9]{3}|0{300}")
_NUMBER_OR_TEXT: Final = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<number>-?[0-9][0-9.]*+(?:[eE][+\-]?[0-9]++)?+)', re.DOTALL
)

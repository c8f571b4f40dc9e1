"""What may be said about input that was refused, without repeating any of it.

Pydantic's report mixes the developer's words (names of fields, limits, messages) with the caller's (values,
names of unknown fields, keys, tags). A caller may have sent a password, and an error body travels through
logs and screens.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, cast, get_args

from fastapi.exceptions import RequestValidationError
from pydantic_core import core_schema
from starlette.requests import Request

from backstay.app._declared_fields import Place, follow
from backstay.errors import did_you_mean

__all__ = ["InvalidField", "describe_errors", "position_of_bad_json"]

MAX_ERRORS: Final = 100
GENERIC_MESSAGE: Final = "Invalid value"

_UNKNOWN_NAME: Final = frozenset(
    {"extra_forbidden", "unexpected_keyword_argument", "unexpected_positional_argument"}
)
# The text of these comes from outside Pydantic: a validator, a parser, the input itself.
_FREE_TEXT: Final = frozenset(
    {
        *(
            "value_error",
            "assertion_error",
            "bytes_invalid_encoding",
            "get_attribute_error",
            "iteration_error",
        ),
        *("json_invalid", "mapping_type", "timezone_offset", "url_parsing", "url_syntax_violation"),
    }
)
_OUR_OWN: Final = frozenset({"page_too_deep", "repeated_sort_key", "unknown_sort_key"})
_TRUSTED: Final = (frozenset(get_args(core_schema.ErrorType)) - _FREE_TEXT) | _OUR_OWN


@dataclass(frozen=True, slots=True)
class InvalidField:
    """One thing that is wrong with the input, safe to show to anyone."""

    loc: list[str | int]
    type: str
    message: str


def describe_errors(error: RequestValidationError, request: Request) -> list[InvalidField]:
    """Return what is wrong with the input in none of the caller's words; at most `MAX_ERRORS` entries."""
    entries = (entry for entry in error.errors() if isinstance(entry, Mapping))
    return [_describe(entry, request, body=error.body) for entry in islice(entries, MAX_ERRORS)]


def position_of_bad_json(error: RequestValidationError) -> int | None:
    """Return where the body stops being JSON, or None when it is JSON or was not read as such."""
    for entry in error.errors():
        # By its message too: a field of type `Json` reports the same type.
        if isinstance(entry, Mapping) and entry.get("msg") == "JSON decode error":
            return next((part for part in entry.get("loc", ()) if isinstance(part, int)), None)
    return None


def _describe(entry: Mapping[str, Any], request: Request, *, body: object) -> InvalidField:
    kind, loc = str(entry.get("type", "value_error")), tuple(entry.get("loc", ()))
    if kind in _UNKNOWN_NAME and loc:
        place = follow(loc[:-1], request)
        return InvalidField(place.loc, kind, f"Unknown field.{did_you_mean(str(loc[-1]), place.names)}")
    place = follow(loc, request)
    return InvalidField(place.loc, kind, _message(kind, entry, place, body=body))


def _message(kind: str, entry: Mapping[str, Any], place: Place, *, body: object) -> str:
    if kind == "missing":
        return "Field required"
    if place.sensitive:
        return GENERIC_MESSAGE
    if kind == "union_tag_invalid":
        context = entry["ctx"]
        return f"The tag {context['discriminator']} should be one of: {context['expected_tags']}"
    if kind == "uuid_parsing":
        return "Input should be a valid UUID"
    message = str(entry.get("msg", ""))
    if message and kind in _TRUSTED:
        return message
    own_words = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return own_words if _is_clean(own_words, entry.get("input"), place, body=body) else GENERIC_MESSAGE


# ---------------------------------------------------------------- echoes

_MAX_LEAVES: Final = 500
_MAX_CHARACTERS: Final = 10_000
_SHORTEST_PART = 3  # of the input, wherever it stands in the message
_SHORTEST_WORD = 5  # of the message, wherever it stands in the input


def _is_clean(message: str, value: object, place: Place, *, body: object) -> bool:
    """Tell whether a message repeats nothing of the refused value, nor any whole value of the body.

    Doubt hides the message: an innocent word in both costs an explanation, a missed one a password.
    """
    refused = list(islice(chain(_values(value), _names(value, place.names)), _MAX_LEAVES))
    sent = list(islice(_values(body), _MAX_LEAVES))
    if not message or max(len(refused), len(sent)) == _MAX_LEAVES:
        return False
    text = message.casefold()
    return not _shares_words(text, " ".join(refused)) and not any(
        value in text for value in sent if len(value) >= _SHORTEST_PART
    )


def _shares_words(message: str, value: str) -> bool:
    if len(value) > _MAX_CHARACTERS:
        return True
    words, spoken = set(re.findall(r"\w+", value)), set(re.findall(r"\w+", message))
    return (
        not words.isdisjoint(spoken)
        or any(word in message for word in words if len(word) >= _SHORTEST_PART)
        or any(word in value for word in spoken if len(word) >= _SHORTEST_WORD)
    )


def _values(value: object) -> Iterator[str]:
    """Yield every plain value in what the caller sent, in folded case."""
    if isinstance(value, _CONTAINERS):
        yield from (leaf for inner in _inside(value) for leaf in _values(inner))
    elif isinstance(value, bytes):
        yield value.decode(errors="replace").casefold()
    elif value is not None:
        yield str(value).strip().casefold()


def _names(value: object, known: Collection[str]) -> Iterator[str]:
    """Yield every name in what the caller sent, in folded case, but on the first level not the known ones."""
    if isinstance(value, Mapping):
        yield from (str(name).casefold() for name in value if name not in known)
    if isinstance(value, _CONTAINERS):
        yield from (name for inner in _inside(value) for name in _names(inner, ()))


_CONTAINERS: Final = (Mapping, list, tuple, set, frozenset)


def _inside(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, Mapping) else cast("Iterable[object]", value)

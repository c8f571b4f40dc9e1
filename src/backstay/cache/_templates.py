"""Templates of keys, read once: `user:{user_id}`, `report:{self.tenant_id}:{name:hash}`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import reduce
from string import Formatter
from typing import Any, Final

from backstay.cache._key_values import as_key_part, as_name
from backstay.errors import ConfigurationError, did_you_mean

__all__ = ["Template"]

_FIELD: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_SEPARATORS: Final = frozenset(":/|")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


_CHANGES: Final[dict[str, Callable[[str], str]]] = {"lower": str.lower, "upper": str.upper, "hash": _hash}


@dataclass(frozen=True, slots=True)
class _Field:
    """A place for a value.

    Attributes:
        path: The parameter, and what of it.
        change: What is done to text; None for nothing.
    """

    path: tuple[str, ...]
    change: Callable[[str], str] | None

    def find(self, arguments: dict[str, Any]) -> object:
        """Return the value of this place."""
        name, *attributes = self.path
        value = reduce(getattr, attributes, arguments[name]) if attributes else arguments[name]
        return value if self.change is None else self.change(value if isinstance(value, str) else str(value))


class Template:
    """A template whose fields are parameters of one function.

    Args:
        text: The template: names in braces, with attributes (`{user.id}`) and one change (`{email:lower}`,
            `{token:hash}`, `upper`).
        parameters: The names that a field may begin with.
        of: Whose it is, for errors.

    Raises:
        ConfigurationError: It cannot be read, or names something else.
    """

    def __init__(self, text: str, *, parameters: Collection[str], of: str) -> None:
        self.text = text
        self._of = of
        self._literals: list[str] = [""]
        self._fields: list[_Field] = []
        try:
            for literal, name, change, conversion in Formatter().parse(text):
                self._literals[-1] += literal
                if name is not None:
                    self._add(name, change or "", conversion, parameters)
        except ValueError as error:
            raise self._error(f"cannot be read: {error}") from None
        if not text.strip():
            raise self._error("is empty")

    def _add(self, name: str, change: str, conversion: str | None, parameters: Collection[str]) -> None:
        if conversion or not _FIELD.fullmatch(name):
            raise self._error(f"has the field {{{name}}}; a field is a parameter, or an attribute of one")
        parameter, *_ = path = tuple(name.split("."))
        if parameter not in parameters:
            known = ", ".join(parameters) or "none"
            raise self._error(
                f"has the field {{{name}}}, and there is no such parameter (there are: {known})."
                f"{did_you_mean(parameter, parameters)}"
            )
        if change and change not in _CHANGES:
            raise self._error(f"changes {{{name}}} by {change!r}; there are {', '.join(_CHANGES)}")
        if self._fields and not _SEPARATORS & set(self._literals[-1]):
            raise self._error(f"needs a ':' between {{{'.'.join(self._fields[-1].path)}}} and {{{name}}}")
        self._fields.append(_Field(path, _CHANGES.get(change)))
        self._literals.append("")

    def _error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(
            f"The key template {self.text!r} of {self._of} {problem}.",
            hint="Write one such as 'user:{user_id}'.",
        )

    @property
    def parameters(self) -> frozenset[str]:
        """The parameters that it names."""
        return frozenset(field.path[0] for field in self._fields)

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Each field, as parameter and attributes."""
        return tuple(field.path for field in self._fields)

    def key(self, arguments: dict[str, Any]) -> str:
        """Return the key for these arguments, with their types."""
        return self._render(arguments, as_key_part)

    def name(self, arguments: dict[str, Any]) -> str:
        """Return the name that the key is forgotten by."""
        return self._render(arguments, as_name)

    def _render(self, arguments: dict[str, Any], encode: Callable[[object], str]) -> str:
        parts = [self._literals[0]]
        for field, literal in zip(self._fields, self._literals[1:], strict=True):
            parts += (encode(field.find(arguments)), literal)
        return "".join(parts)

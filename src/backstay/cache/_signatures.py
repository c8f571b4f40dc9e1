"""A function's parameters, read once, so that a call need not be bound by `inspect`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from backstay.errors import ConfigurationError

__all__ = ["Parameters"]

_NAMES_OF_SESSIONS = frozenset(
    {"AsyncSession", "ReadingSession", "TransactionSession", "SessionDep", "ReadSessionDep"}
)


class Parameters:
    """How the arguments of one function are called, and which of them is the session.

    Attributes:
        session: The parameter that holds the session; None without one.
        owner: The parameter that holds the instance, for a method; None for a function.
        names: All others, which make the key.

    Raises:
        ConfigurationError: The function is none that can be cached.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function_name = function.__qualname__
        self._signature = inspect.signature(function)
        self.hints = find_hints(function)
        self._refuse_open_ended()
        parameters = tuple(self._signature.parameters.values())
        self._all = tuple(parameter.name for parameter in parameters)
        self._known = frozenset(self._all)
        self._positional = tuple(one.name for one in parameters if one.kind is not one.KEYWORD_ONLY)
        self._defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
        self._positional_only = any(one.kind is one.POSITIONAL_ONLY for one in parameters)
        self._can_be_ordered = len(self._positional) == len(self._all)
        self.session = self._find_session()
        self._session_at = None if self.session is None else self._all.index(self.session)
        self.owner = self._all[0] if self._all[:1] in (("self",), ("cls",)) else None
        self.names = tuple(name for name in self._all if name not in (self.session, self.owner))

    def _refuse_open_ended(self) -> None:
        for one in self._signature.parameters.values():
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                raise ConfigurationError(
                    f"{self.function_name} takes {one}, so its key would not say what it was called with.",
                    hint="Name its parameters.",
                )

    def _find_session(self) -> str | None:
        found = [name for name in self._all if name == "session" or _is_session(self.hints.get(name))]
        if len(found) > 1:
            raise ConfigurationError(
                f"{self.function_name} takes two sessions, {' and '.join(found)}; a cached function has one.",
                hint="Leave one of them out.",
            )
        return found[0] if found else None

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return every argument by its name, defaults included.

        Raises:
            TypeError: The function cannot be called so.
        """
        if not kwargs and len(args) == len(self._all) == len(self._positional):
            return dict(zip(self._all, args, strict=True))
        arguments = dict(zip(self._positional, args, strict=False))
        if kwargs:
            arguments.update(kwargs)
        if len(arguments) != len(args) + len(kwargs) or not self._known.issuperset(arguments):
            self._signature.bind(*args, **kwargs)  # says what is wrong
        if len(arguments) != len(self._all):
            arguments = {**self._defaults, **arguments}
            if len(arguments) != len(self._all):
                self._signature.bind(*args, **kwargs)
        if self._positional_only and kwargs:
            self._signature.bind(*args, **kwargs)
        return arguments

    def order(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return every argument in the order of the parameters, defaults included.

        Raises:
            TypeError: The function cannot be called so.
        """
        if self._can_be_ordered and not kwargs and len(args) == len(self._all):
            return args
        arguments = self.bind(args, kwargs)
        return tuple(arguments[name] for name in self._all)

    def name(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """Return ordered arguments by their names."""
        return dict(zip(self._all, values, strict=True))

    def find_session(self, values: tuple[Any, ...]) -> Any:
        """Return the session among ordered arguments; None for a function without one."""
        return None if self._session_at is None else values[self._session_at]

    def leave_out_session(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return ordered arguments without the session."""
        at = self._session_at
        return values if at is None else values[:at] + values[at + 1 :]

    def replace_session(self, values: tuple[Any, ...], session: Any) -> tuple[Any, ...]:
        """Return ordered arguments with another session."""
        at = self._session_at
        return values if at is None else (*values[:at], session, *values[at + 1 :])

    def complete(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments by name with the defaults that they leave out."""
        return {**self._defaults, **arguments}

    def call(self, function: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        """Call the function with ordered arguments."""
        count = len(self._positional)
        return function(*values[:count], **dict(zip(self._all[count:], values[count:], strict=True)))


def find_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations; as text where their names are not there yet."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        return dict(inspect.get_annotations(function))


def _is_session(hint: Any) -> bool:
    if isinstance(hint, str):
        return hint.rpartition(".")[2] in _NAMES_OF_SESSIONS
    if get_origin(hint) is not None:
        hint = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    # Named, not imported: the cache knows no database tool.
    return isinstance(hint, type) and any(base.__name__ == "AsyncSession" for base in hint.__mro__)

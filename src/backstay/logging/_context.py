"""Values that every line of the current task carries.

One context variable holds one mapping that is replaced, never changed: a child task starts with what its
parent had bound, and nothing that it binds is seen by the parent or by a sibling.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType

_NOTHING: Mapping[str, object] = MappingProxyType({})
_bound: ContextVar[Mapping[str, object]] = ContextVar("backstay_logging_context", default=_NOTHING)

current_context = _bound.get


def bind_context(**values: object) -> None:
    """Add values to every later line of this task and of the tasks it starts."""
    _bound.set({**_bound.get(), **values})


def bound_context(**values: object) -> AbstractContextManager[None]:
    """Add values for the length of a `with` block.

    At its end the context is what it was before: what was bound inside goes too. Middleware must be pure ASGI
    for its endpoints to see the values.
    """
    return _BoundContext(values)


def clear_context() -> None:
    """Forget every value bound in this task."""
    _bound.set(_NOTHING)


class _BoundContext(AbstractContextManager[None]):
    __slots__ = ("_token", "_values")

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._token: Token[Mapping[str, object]] = _bound.set({**_bound.get(), **self._values})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A generator may be closed from another context than it was started in: nothing to undo there.
        with suppress(ValueError):
            _bound.reset(self._token)

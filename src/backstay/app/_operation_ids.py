"""Names for operations, such as `users_read`, that stay when a path changes.

Client generators make methods of them.
"""

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Final

from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import BaseRoute

__all__ = ["documented_operations", "name_operations"]

Operation = tuple[str, str]
"""A path and a method in lower case."""

# Modules that are named for what they hold, not for what they are about.
_GENERIC_MODULES: Final = frozenset({"api", "endpoints", "router", "routers", "routes", "views"})
_ENTRY_MODULES: Final = frozenset({"__main__", "app", "main"})


def name_operations(routes: Iterable[BaseRoute]) -> dict[Operation, str]:
    """Return a name for each operation: its own `operation_id`, or one of its tag or module and its function.

    When two operations would share a name the first one declared keeps it, and the others add their method,
    then their path.
    """
    contexts = list(documented_operations(routes))
    names = {operation: own for operation, context in contexts if (own := context.operation_id)}
    taken: set[str] = set()
    named: dict[Operation, str] = {}
    reserved = set(names.values())
    for operation, context in contexts:
        own = names.get(operation)
        candidates = _candidates(own or _derive(context), operation)
        blocked = taken if own else taken | reserved
        named[operation] = next(name for name in candidates if name not in blocked)
        taken.add(named[operation])
    return named


def documented_operations(routes: Iterable[BaseRoute]) -> Iterator[tuple[Operation, RouteContext]]:
    """Yield each operation that the OpenAPI document shows, with its route."""
    for context in iter_route_contexts(list(routes)):
        if isinstance(context.original_route, APIRoute) and context.include_in_schema:
            for method in sorted(context.methods or ()):
                yield (context.path_format or "", method.lower()), context


def _candidates(name: str, operation: Operation) -> Iterator[str]:
    path, method = operation
    yield name
    yield f"{name}_{method}"
    yield f"{name}_{_slug(path)}_{method}"
    # Two paths may differ in signs only; the number follows the order of declaration.
    yield from (f"{name}_{_slug(path)}_{method}_{number}" for number in range(2, 10_000))


def _derive(context: RouteContext) -> str:
    function, prefix = _slug(context.name or ""), _prefix(context)
    is_said_already = not prefix or function == prefix or function.startswith(f"{prefix}_")
    return function if is_said_already else f"{prefix}_{function}"


def _prefix(context: RouteContext) -> str:
    for tag in context.tags or ():
        return _slug(str(tag.value if isinstance(tag, Enum) else tag))
    modules = getattr(context.endpoint, "__module__", "").split(".")
    while modules and modules[-1] in _GENERIC_MODULES:
        modules.pop()
    return "" if not modules or modules[-1] in _ENTRY_MODULES else _slug(modules[-1])


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_").lower()

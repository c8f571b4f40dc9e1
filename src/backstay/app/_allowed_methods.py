"""Which methods an address has: the router itself names only those of the first route that it meets."""

from collections.abc import Iterable

from fastapi.routing import iter_route_contexts
from starlette.requests import Request
from starlette.routing import BaseRoute

__all__ = ["list_allowed_methods"]


def list_allowed_methods(request: Request, routes: Iterable[BaseRoute]) -> set[str]:
    """Return the methods of all routes whose template fits the path of the request."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    contexts = [context for context in iter_route_contexts(list(routes)) if context.methods]
    fitting = (context.methods or () for context in contexts if context.path_regex.match(path))
    return {method for methods in fitting for method in methods}

"""The routes that take an idempotency key: found by their marker, checked, and described in OpenAPI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.routing import BaseRoute

from backstay.app._operation_ids import documented_operations
from backstay.app.dependencies import make_repeatable
from backstay.app.idempotency import KEY_HEADER, REPLAYED_HEADER, allow_key, demand_key
from backstay.errors import ConfigurationError

__all__ = ["check_idempotent_routes", "describe_idempotency", "find_idempotent_routes"]

_Json: TypeAlias = dict[str, Any]

_MARKERS: Final = frozenset({allow_key, demand_key})
_METHODS: Final = frozenset({"POST", "PATCH"})
_KEY_SCHEMA: Final = {
    "type": "string",
    "pattern": "^[!-~]{1,255}$",
    "examples": ["8e03978e-40d5-43dd-bc93-6894a57f9324"],
}
_REPLAYED: Final = {
    REPLAYED_HEADER: {
        "description": "`true` when this is the answer of an earlier request with the same key.",
        "schema": {"type": "string"},
    }
}


def find_idempotent_routes(routes: Iterable[BaseRoute]) -> list[tuple[str, str]]:
    """Return method and template of each route that takes an idempotency key."""
    return [
        (method, context.path_format or "")
        for context, _ in _marked(routes)
        for method in sorted(context.methods or ())
    ]


def check_idempotent_routes(routes: Iterable[BaseRoute]) -> None:
    """Refuse a marker where it cannot work.

    Raises:
        ConfigurationError: It is on a route of another method than POST and PATCH, or before `repeatable`.
    """
    for context, calls in _marked(routes):
        for method in sorted(set(context.methods or ()) - _METHODS):
            raise ConfigurationError(
                f"{method} {context.path_format} is marked as idempotent, which POST and PATCH can be.",
                hint="Take the marker away: other methods are idempotent by definition.",
            )
        marked_at = min(calls.index(marker) for marker in _MARKERS.intersection(calls))
        if make_repeatable in calls[marked_at:]:
            raise ConfigurationError(
                f"In the dependencies of {context.path_format}, idempotent comes before repeatable.",
                hint="Write dependencies=[repeatable, idempotent()]: the key is part of what is repeated.",
            )


def _marked(routes: Iterable[BaseRoute]) -> Iterator[tuple[RouteContext, list[object]]]:
    for context in iter_route_contexts(list(routes)):
        if isinstance(context.original_route, APIRoute):
            calls = list(_calls(context.dependant))
            if _MARKERS.intersection(calls):
                yield context, calls


def _calls(dependant: Dependant) -> Iterator[Any]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from _calls(inner)


def describe_idempotency(document: _Json, routes: Iterable[BaseRoute]) -> None:
    """Add what the marked routes take and answer."""
    for (path, method), context in documented_operations(routes):
        calls = set(_calls(context.dependant))
        if calls & _MARKERS:
            operation = document["paths"][path][method]
            operation.setdefault("parameters", []).append(_parameter(is_required=demand_key in calls))
            _describe_responses(operation["responses"])


def _parameter(*, is_required: bool) -> _Json:
    described = "A value that is new for each change; sent again with it, a request has no second effect."
    header = {"name": KEY_HEADER, "in": "header", "required": is_required, "description": described}
    return {**header, "schema": _KEY_SCHEMA}


def _describe_responses(responses: _Json) -> None:
    for status, response in responses.items():
        if status.startswith("2"):
            response["headers"] = response.get("headers", {}) | _REPLAYED
    responses.setdefault("400", {"description": f"{KEY_HEADER} is missing, or is no such key."})
    responses.setdefault("409", {"description": "A request with this key is at work."})
    responses.setdefault("422", {"description": "The key belongs to another request."})

"""What the routes of an app say about what they take and give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard

from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic import BaseModel
from starlette.responses import Response

from backstay.app._declared_fields import walk_types
from backstay.app._deployed import Finding, Service
from backstay.app._operation_ids import documented_operations
from backstay.app._route_policies import route_policies

__all__ = [
    "find_large_pages",
    "find_lax_content_types",
    "find_loose_answers",
    "find_odd_methods",
    "find_open_inputs",
    "find_silent_routes",
]

_LARGEST_PAGE: Final = 100
_PAGE_SIZES: Final = frozenset({"size", "limit", "pagesize", "perpage", "take", "first", "count"})
_ODD_METHODS: Final = frozenset({"TRACE", "TRACK", "CONNECT"})


def find_silent_routes(service: Service) -> Iterator[Finding]:
    """Yield the routes that do not say who may call them."""
    public_paths = service.app.state.backstay.public_paths
    for policy in route_policies(service.app, public_paths=public_paths):
        if policy.admits is None:
            yield Finding(
                f"{policy}.",
                "Put dependencies=[public] on what is for everybody, and a guard on what is not.",
            )


def find_open_inputs(service: Service) -> Iterator[Finding]:
    """Yield the models of request bodies that silently ignore fields."""
    for name, context in _operations(service):
        for kind, _ in walk_types(_body_type(context)):
            if _is_model(kind) and kind.model_config.get("extra") != "forbid":
                yield Finding(
                    f"{name} takes {kind.__name__}, which ignores fields that it does not know.",
                    "Derive it from InputSchema or PatchSchema, or set extra='forbid' in its model_config.",
                )


def find_loose_answers(service: Service) -> Iterator[Finding]:
    """Yield the routes that answer with whatever they return, or with a secret."""
    for name, context in _operations(service):
        answer = context.response_field
        if answer is None:
            if not _answers_by_itself(context):
                yield Finding(
                    f"{name} does not say what it answers, so whatever it returns leaves the service.",
                    "Annotate what it returns with a Schema, or with a subclass of Response.",
                )
            continue
        for secret in _secrets(answer.field_info.annotation):
            yield Finding(
                f"{name} answers with the field {secret!r}, which is marked as a secret.",
                "Leave it out of the answer's model.",
            )


def find_large_pages(service: Service) -> Iterator[Finding]:
    """Yield the parameters by which a caller may ask for any number of rows."""
    paths = service.app.openapi().get("paths", {})
    for (path, method), _ in documented_operations(service.app.routes):
        for parameter, largest in _page_sizes(paths[path][method]):
            if largest is None or largest > _LARGEST_PAGE:
                yield Finding(
                    f"{method.upper()} {path} takes {parameter!r} up to "
                    f"{'any number' if largest is None else largest}.",
                    f"Use PageDep, or Query(le={_LARGEST_PAGE}).",
                )


def find_lax_content_types(service: Service) -> Iterator[Finding]:
    """Yield the routes that take JSON under any content type, as a form on any page can send it."""
    for name, context in _operations(service):
        if _body_type(context) is not None and getattr(context, "strict_content_type", True) is False:
            yield Finding(
                f"{name} takes JSON that does not say that it is JSON.", "Drop strict_content_type=False."
            )


def find_odd_methods(service: Service) -> Iterator[Finding]:
    """Yield the routes that answer methods which are for proxies."""
    for context in iter_route_contexts(list(service.app.routes)):
        for method in sorted(_ODD_METHODS & (context.methods or set())):
            yield Finding(f"{context.path_format} answers {method}.", f"Take {method} out of its methods.")


def _operations(service: Service) -> Iterator[tuple[str, RouteContext]]:
    for context in iter_route_contexts(list(service.app.routes)):
        if isinstance(context.original_route, APIRoute):
            yield f"{','.join(sorted(context.methods or ()))} {context.path_format}", context


def _body_type(context: RouteContext) -> object:
    body = context.body_field
    return None if body is None else body.field_info.annotation


def _answers_by_itself(context: RouteContext) -> bool:
    """Return whether there is nothing to check: no body, a stream, or a response that the route makes."""
    if context.status_code in {204, 205, 304}:
        return True
    returned = getattr(context.endpoint, "__annotations__", {}).get("return", "missing")
    if returned in (None, "None"):
        return True
    made_by_route = isinstance(returned, type) and issubclass(returned, Response)
    own_class = isinstance(context.response_class, type) and issubclass(context.response_class, Response)
    return made_by_route or own_class or (isinstance(returned, str) and returned.endswith("Response"))


def _secrets(annotation: object) -> Iterator[str]:
    for _, fields in walk_types(annotation):
        for wire in dict.fromkeys(declared.wire for declared in fields.values()):
            # A token or a key may be what the route is for; these never are.
            if not _NEVER_GIVEN.isdisjoint(_WORDS.findall(wire)):
                yield wire


_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NEVER_GIVEN: Final = frozenset(
    spelling
    for word in ("password", "passwd", "passphrase", "passcode", "secret")
    for spelling in (word, word.title(), word.upper())
)


def _page_sizes(operation: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Yield each parameter that says how many rows there should be, with its largest value."""
    for parameter in operation.get("parameters", ()):
        words = parameter["name"].lower().replace("_", "").replace("-", "")
        if parameter["in"] == "query" and words in _PAGE_SIZES:
            schema = parameter["schema"]
            for each in schema.get("anyOf", [schema]):
                if each.get("type") == "integer":
                    yield parameter["name"], each.get("maximum", each.get("exclusiveMaximum"))


def _is_model(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)

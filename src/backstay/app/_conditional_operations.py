"""Conditional requests in OpenAPI: their headers and answers, read off the dependencies of routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from fastapi.dependencies.models import Dependant
from starlette.routing import BaseRoute

from backstay.app._operation_ids import documented_operations
from backstay.app.conditions import allow_condition, demand_condition, tag_response

__all__ = ["describe_conditions"]

_Json: TypeAlias = dict[str, Any]

_SAFE: Final = ("get", "head")
_ETAG: Final = {
    "ETag": {
        "description": "Names the version that is shown; send it back in If-Match or If-None-Match.",
        "schema": {"type": "string"},
    }
}


def describe_conditions(document: _Json, routes: Iterable[BaseRoute]) -> None:
    """Add what the routes with `ETagDep`, `IfMatchDep` or `ConditionDep` take and answer."""
    for (path, method), context in documented_operations(routes):
        calls = set(_calls(context.dependant))
        if calls & {tag_response, allow_condition, demand_condition}:
            operation = document["paths"][path][method]
            _describe_parameters(operation, method, calls)
            _describe_responses(operation, method, calls)


def _calls(dependant: Dependant) -> Iterator[object]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from _calls(inner)


def _describe_parameters(operation: _Json, method: str, calls: set[object]) -> None:
    parameters: list[_Json] = operation.setdefault("parameters", [])
    if method in _SAFE:
        parameters.append(_header("If-None-Match", "The ETags of what the caller has; 304 for one of them."))
        return
    if calls & {allow_condition, demand_condition}:
        described = "The ETag of what the caller has read, a list of them, or `*` for any version."
        parameters.append(_header("If-Match", described, required=demand_condition in calls))
    if allow_condition in calls:
        parameters.append(_header("If-None-Match", "`*` when nothing may be there yet."))


def _header(name: str, description: str, *, required: bool = False) -> _Json:
    header = {"name": name, "in": "header", "required": required, "description": description}
    return {**header, "schema": {"type": "string", "pattern": _TAGS, "examples": ['"3"']}}


_TAG: Final = r'(W/)?"[!#-~]*"'
_TAGS: Final = rf"^(\*|{_TAG}( *, *{_TAG})*)$"


def _describe_responses(operation: _Json, method: str, calls: set[object]) -> None:
    responses: _Json = operation["responses"]
    if method != "delete":
        for status, response in responses.items():
            if status.startswith("2"):
                response["headers"] = _ETAG | response.get("headers", {})
    if method in _SAFE:
        responses.setdefault("304", {"description": "The caller has it already.", "headers": _ETAG})
        return
    if calls & {allow_condition, demand_condition}:
        failed = "It is in another version than the one that the caller has read."
        _set_default(responses, HTTPStatus.PRECONDITION_FAILED, failed)
    if demand_condition in calls:
        _set_default(responses, HTTPStatus.PRECONDITION_REQUIRED, "The header If-Match is missing.")


def _set_default(responses: _Json, status: HTTPStatus, description: str) -> None:
    responses.setdefault(str(status.value), {"description": description})

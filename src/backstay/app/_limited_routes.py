"""The rate limits that the routes of an app carry: listed, checked before the start, described in OpenAPI."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts
from starlette.routing import BaseRoute

from backstay.app._limit_record import policy_of
from backstay.app._operation_ids import documented_operations
from backstay.app.explanation import variable_name
from backstay.app.limits import LimitCheck
from backstay.errors import ConfigurationError, did_you_mean
from backstay.settings import Settings

__all__ = ["LimitedRoute", "check_limits", "describe_limits", "limited_routes", "require_shared_counters"]

_Json: TypeAlias = dict[str, Any]

_PATH_PARAMETER: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class LimitedRoute:
    """A route with a limit.

    Attributes:
        route: Its methods and path: `POST /login`.
        template: What is counted by: `login:{ip}`.
        limit: How many hits are admitted in a span.
        per_seconds: How long the span is.
        when_unavailable: `local` or `open`.
    """

    route: str
    template: str
    limit: int
    per_seconds: float
    when_unavailable: str

    def __str__(self) -> str:
        fallback = "counted by each process" if self.when_unavailable == "local" else "open"
        return f"{self.template}, {self.limit} in {self.per_seconds:g} s; {fallback} while Redis is away"


def limited_routes(app: FastAPI) -> list[LimitedRoute]:
    """Return the routes of the app that carry limits, in the order of their declaration."""
    return [
        LimitedRoute(
            route,
            check.template.text,
            check.quota.limit,
            check.quota.per.total_seconds(),
            check.when_unavailable,
        )
        for route, _, checks in _routes(app)
        for check in checks
    ]


def check_limits(app: FastAPI) -> None:
    """Do nothing when every field of every limit has a value on its route.

    Raises:
        ConfigurationError: One has none, or two limits of a route have one name.
    """
    for route, path, checks in _routes(app):
        parameters = frozenset(_PATH_PARAMETER.findall(path))
        for check in checks:
            for field in sorted(check.template.names - parameters):
                raise ConfigurationError(
                    f"The rate limit {check.template.text!r} of {route} has the field {field!r}, and the "
                    f"path has no such parameter.{did_you_mean(field, parameters)}",
                    hint="Use {ip}, {header.x-tenant} or {query.page}, or call `await limit.hit(...)` in the "
                    "route.",
                )
        _refuse_twins(route, checks)


def _refuse_twins(route: str, checks: list[LimitCheck]) -> None:
    for text, count in Counter(check.template.text for check in checks).items():
        if count > 1:
            raise ConfigurationError(
                f"{route} has {count} rate limits named {text!r}, which its callers could not tell apart.",
                hint=f"Name one of them otherwise, such as 'daily-{text}'.",
            )


def require_shared_counters(app: FastAPI, settings: Settings, *, workers: int | None = None) -> None:
    """Do nothing when one process serves, or all of them count in one place.

    Args:
        app: The app with its routes.
        settings: What it is made with.
        workers: How many processes serve it, when it is not as `server.workers` says.

    Raises:
        ConfigurationError: The limits of its routes would be counted in each process.
    """
    count = workers or settings.server.workers
    if count == 1 or not settings.cache.is_in_memory or not limited_routes(app):
        return
    url, one = variable_name(settings, "cache.url"), variable_name(settings, "server.workers")
    raise ConfigurationError(
        f"The routes have rate limits, and each of the {count} worker processes would count for itself: "
        f"{count} times the limit would be admitted.",
        hint=f"Set {url}=redis://localhost:6379/0, or {one}=1.",
    )


def _routes(app: FastAPI) -> Iterator[tuple[str, str, list[LimitCheck]]]:
    for context in iter_route_contexts(list(app.routes)):
        if not isinstance(context.original_route, APIRoute | APIWebSocketRoute):
            continue
        path = context.path_format or ""
        checks = list(dict.fromkeys(_checks(context.dependant)))
        if checks:
            methods = ",".join(sorted(context.methods or ())) or "WebSocket"
            yield f"{methods} {path}", path, checks


def _checks(dependant: Dependant) -> Iterator[LimitCheck]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, LimitCheck):
            yield inner.call
        yield from _checks(inner)


# ---------------------------------------------------------------- OpenAPI


def describe_limits(document: _Json, routes: Iterable[BaseRoute]) -> None:
    """Add the answer 429 and the headers of the routes with limits."""
    for (path, method), context in documented_operations(routes):
        checks = list(dict.fromkeys(_checks(context.dependant)))
        if checks:
            _describe_responses(document["paths"][path][method]["responses"], checks)


def _describe_responses(responses: _Json, checks: list[LimitCheck]) -> None:
    headers = _describe_headers(checks)
    for status, response in responses.items():
        if status.startswith("2"):
            response["headers"] = headers | response.get("headers", {})
    retry_after = _header("integer", "Seconds until another request is admitted.", 12)
    refused = {"description": "Too many requests.", "headers": {"Retry-After": retry_after, **headers}}
    responses.setdefault("429", refused)


def _describe_headers(checks: list[LimitCheck]) -> _Json:
    policies = ", ".join(policy_of(check.template.text, check.quota) for check in checks)
    states = ", ".join(
        f'"{check.template.text}";r={check.quota.limit - 1};t={round(check.quota.per.total_seconds())}'
        for check in checks
    )
    return {
        "RateLimit-Policy": _header("string", "The limits: `q` requests in `w` seconds.", policies),
        "RateLimit": _header("string", "What is left: `r` requests, more in `t` seconds.", states),
    }


def _header(kind: str, description: str, example: object) -> _Json:
    return {"description": description, "schema": {"type": kind, "examples": [example]}}

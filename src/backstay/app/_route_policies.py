"""Who may call each route of an app: listed, and checked before the start."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import Host, Mount

from backstay.app._principals import identify, require_principal
from backstay.app.limits import LimitCheck
from backstay.app.policies import Guard, ScopeCheck, admit_everybody
from backstay.errors import ConfigurationError, did_you_mean
from backstay.settings import Settings

__all__ = ["RoutePolicy", "check_policies", "demands_policies", "drop_markers", "route_policies"]

# What the library and FastAPI serve themselves: health, metrics, the documentation and what it shows. Each of
# these has a setting of its own that says who gets it.
_OWN_MODULES: Final = frozenset(
    {
        "backstay.app.documentation",
        "backstay.app.health",
        "backstay.app.metrics",
        "fastapi.applications",
    }
)


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """A route, and who may call it.

    Attributes:
        route: Its methods and path: `GET /orders`.
        admits: `everybody`, or `whom verify_signature admits`; None when it does not say.
        contradicts: What it says besides, when that cannot be true as well.
        place: Where its function is: `shop/orders/routes.py:12`.
    """

    route: str
    admits: str | None
    contradicts: str | None
    place: str

    def __str__(self) -> str:
        return f"{self.route} is for {self.admits}" if self.admits else f"{self.route} does not say for whom"


def demands_policies(settings: Settings, *, is_created: bool) -> bool:
    """Return whether an app is refused whose routes do not say who may call them.

    Args:
        settings: The settings that it was made with.
        is_created: Whether `create_app` made it.
    """
    chosen = settings.http.require_policies
    return is_created if chosen is None else chosen


def route_policies(app: FastAPI, *, public_paths: Collection[str] = ()) -> list[RoutePolicy]:
    """Return who may call each route of the app, in the order of their declaration.

    Args:
        app: The app with its routes.
        public_paths: The paths of routes and mounts that cannot say it themselves, and are for everybody.
    """
    return [
        _read_policy(route, public_paths)
        for route in _list_routes(app)
        if _module_of(route.endpoint) not in _OWN_MODULES
    ]


def check_policies(app: FastAPI, *, public_paths: Collection[str] = ()) -> None:
    """Do nothing when every route says who may call it, and none says two things.

    Raises:
        ConfigurationError: Some do not; all of them are named.
    """
    _refuse_unknown(public_paths, [route for route in _list_routes(app) if not route.can_say])
    policies = route_policies(app, public_paths=public_paths)
    _refuse_silent([policy for policy in policies if policy.admits is None])
    for policy in policies:
        if policy.contradicts is not None:
            raise ConfigurationError(
                f"{policy.route} ({policy.place}) is for {policy.admits}, and for {policy.contradicts} as "
                "well.",
                hint="Keep one of them. What a router or the app has in `dependencies` holds for all its "
                "routes.",
            )


def list_calls(dependant: Dependant | None) -> Iterator[object]:
    """Return everything that a route calls before its function."""
    for inner in () if dependant is None else dependant.dependencies:
        yield inner.call
        yield from list_calls(inner)


def scopes_of(calls: Iterable[object]) -> tuple[str, ...]:
    """Return the scopes that these calls need, together."""
    checks = [call for call in calls if isinstance(call, ScopeCheck)]
    return tuple(dict.fromkeys(scope for check in checks for scope in check.scopes))


def needs_principal(calls: Iterable[object]) -> bool:
    """Return whether these calls have to know who calls."""
    return any(call is require_principal or isinstance(call, ScopeCheck) for call in calls)


def check_identity(app: FastAPI) -> None:
    """Refuse an app whose routes ask who calls, when nothing proves it.

    Raises:
        ConfigurationError: One does.
    """
    for route in _list_routes(app):
        if needs_principal(route.calls) or identify in route.calls or _counts_callers(route.calls):
            raise ConfigurationError(
                f"{route} ({_place_of(route.endpoint)}) asks who calls, and nothing proves it.",
                hint="Give create_app(settings, accounts=...), or api_keys=True.",
            )


def _counts_callers(calls: Iterable[object]) -> bool:
    return any(isinstance(call, LimitCheck) and call.template.asks_who_calls for call in calls)


def drop_markers(app: FastAPI) -> None:
    """Take `public` out of what FastAPI calls for each request; the routes still have it to be read."""
    for context in iter_route_contexts(list(app.routes)):
        dependant = getattr(context, "dependant", None)
        if dependant is not None:
            dependant.dependencies[:] = [
                inner for inner in dependant.dependencies if inner.call is not admit_everybody
            ]


def _refuse_unknown(public_paths: Collection[str], silent: Sequence[_Route]) -> None:
    known = [route.path for route in silent]
    for path in public_paths:
        if path not in known:
            raise ConfigurationError(
                f"public_paths names {path!r}, and no mount or plain Starlette route has this path."
                f"{did_you_mean(path, known)}",
                hint="Routes of FastAPI say it themselves: dependencies=[public].",
            )


def _refuse_silent(silent: Sequence[RoutePolicy]) -> None:
    if not silent:
        return
    count = "1 route does not say who may call it" if len(silent) == 1 else None
    lines = "".join(f"\n  {policy.route}  {policy.place}".rstrip() for policy in silent)
    raise ConfigurationError(
        f"{count or f'{len(silent)} routes do not say who may call them'}:{lines}",
        hint="Put dependencies=[public] on what is for everybody: a route, its router or the app. Name "
        "mounts and plain Starlette routes in create_app(..., public_paths=[...]).",
    )


# ---------------------------------------------------------------- the routes of an app


@dataclass(frozen=True, slots=True)
class _Route:
    """What is asked about one route, whoever made it."""

    path: str
    methods: str
    endpoint: Callable[..., Any] | None
    dependencies: Sequence[Depends]
    calls: Sequence[object]
    can_say: bool

    def __str__(self) -> str:
        return f"{self.methods} {self.path}"


def _list_routes(app: FastAPI) -> Iterator[_Route]:
    for context in iter_route_contexts(list(app.routes)):
        dependencies = getattr(context, "dependencies", None)
        yield _Route(
            path=_find_path(context),
            methods=_name_methods(context),
            endpoint=getattr(context, "endpoint", None),
            dependencies=dependencies or (),
            calls=tuple(list_calls(getattr(context, "dependant", None))),
            can_say=dependencies is not None,
        )
    yield from _list_frontends(app)


def _find_path(context: RouteContext) -> str:
    original = context.original_route
    if isinstance(original, Host):
        return original.host
    if isinstance(original, Mount):
        return original.path or "/"
    return context.path_format or "/"


def _name_methods(context: RouteContext) -> str:
    if isinstance(context.original_route, Host | Mount):
        return "mount"
    methods = set(context.methods or ())
    # Starlette answers HEAD wherever it answers GET.
    return ",".join(sorted(methods - ({"HEAD"} if "GET" in methods else set()))) or "WebSocket"


def _list_frontends(app: FastAPI) -> Iterator[_Route]:
    # Files that `app.frontend` serves where no route matches; FastAPI lists them nowhere else.
    for group in app.router._iter_low_priority_routes():  # noqa: SLF001
        original = getattr(group, "original_route", group)
        dependencies = getattr(group, "dependencies", ())
        for frontend in getattr(original, "routes", ()):
            path = f"{getattr(group, 'frontend_prefix', '')}{frontend.path}"
            calls = tuple(list_calls(getattr(group, "dependant", None)))
            yield _Route(path, "frontend", None, dependencies, calls, can_say=False)


def _read_policy(route: _Route, public_paths: Collection[str]) -> RoutePolicy:
    is_public = any(one.dependency is admit_everybody for one in route.dependencies)
    is_named = not route.can_say and route.path in public_paths
    demands = " and ".join(dict.fromkeys(_read_demands(route))) or None
    admits = "everybody" if is_public or is_named else demands
    contradicts = demands if admits != demands else None
    return RoutePolicy(str(route), admits, contradicts, _place_of(route.endpoint))


def _read_demands(route: _Route) -> Iterator[str]:
    if scopes := scopes_of(route.calls):
        yield f"callers with the scope{'s' if len(scopes) > 1 else ''} {' '.join(scopes)}"
    elif require_principal in route.calls:
        yield "callers that are known"
    for one in route.dependencies:
        if isinstance(one, Guard):
            yield f"whom {getattr(one.dependency, '__name__', type(one.dependency).__name__)} admits"


def _module_of(endpoint: Callable[..., Any] | None) -> str | None:
    return getattr(endpoint, "__module__", None)


def _place_of(endpoint: Callable[..., Any] | None) -> str:
    if endpoint is None:
        return ""
    unwrapped = inspect.unwrap(endpoint)
    code = getattr(getattr(unwrapped, "__func__", unwrapped), "__code__", None)
    if code is None:
        return f"{_module_of(unwrapped)}.{getattr(unwrapped, '__qualname__', type(unwrapped).__name__)}"
    file = Path(code.co_filename)
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return f"{shown}:{code.co_firstlineno}"

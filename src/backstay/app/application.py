"""`create_app` joins everything on a new app; `install` adds to an existing one what changes no answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypedDict, Unpack

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from backstay.app._caching import require_shared_cache
from backstay.app._idempotent_operations import check_idempotent_routes
from backstay.app._input_rules import InputRules
from backstay.app._limited_routes import check_limits, require_shared_counters
from backstay.app._named_clients import check_clients
from backstay.app._own_routes import add_identity
from backstay.app._route_policies import check_identity, check_policies, demands_policies, drop_markers
from backstay.app.accounts import Accounts
from backstay.app.documentation import add_documentation, serves_documentation
from backstay.app.health import HealthCheck, add_health
from backstay.app.idempotency import REPLAYED_HEADER
from backstay.app.installation import Installation
from backstay.app.metrics import add_metrics
from backstay.app.middleware import BackstayMiddleware
from backstay.app.openapi import refine_openapi
from backstay.app.problems import ProblemShape, add_problem_handlers, problem_response
from backstay.app.response_headers import security_headers
from backstay.app.time_limits import TimeLimits
from backstay.logging import Processor
from backstay.settings import Settings

__all__ = ["FastAPIOptions", "create_app", "install"]

Lifespan = (
    Callable[[FastAPI], AbstractAsyncContextManager[None]]
    | Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]
)
"""A context manager around the time in which the app serves; what it yields becomes `request.state`."""


class FastAPIOptions(TypedDict, total=False):
    """What `create_app` passes on to `FastAPI`."""

    title: str
    summary: str | None
    description: str
    version: str
    openapi_url: str | None
    openapi_tags: list[dict[str, Any]] | None
    servers: list[dict[str, str | Any]] | None
    terms_of_service: str | None
    contact: dict[str, str | Any] | None
    license_info: dict[str, str | Any] | None
    dependencies: Sequence[Any]
    redirect_slashes: bool


_EXPOSED_HEADERS = ("ETag", REPLAYED_HEADER, "RateLimit", "RateLimit-Policy", "Retry-After")


def create_app(  # noqa: PLR0913  each is an option of its own, and all but one have a default
    settings: Settings,
    *,
    routers: Sequence[APIRouter] = (),
    lifespan: Lifespan | None = None,
    health_checks: Sequence[HealthCheck] = (),
    problem_shape: ProblemShape = problem_response,
    log_processors: Sequence[Processor] = (),
    public_paths: Sequence[str] = (),
    accounts: Accounts | None = None,
    api_keys: bool = False,
    **options: Unpack[FastAPIOptions],
) -> FastAPI:
    """Return a FastAPI app whose parts commit, fail and shut down together.

    Args:
        settings: The service's settings; an instance of its own subclass of `Settings`.
        routers: Included in this order.
        lifespan: Runs inside backstay's: `current_runtime()` is there.
        health_checks: Asked by `/readyz` beside the database.
        problem_shape: Makes the body of every error; an RFC 9457 problem document unless replaced.
        log_processors: See and change each log event before it is redacted.
        public_paths: The paths of mounts and plain Starlette routes, which cannot say `public` themselves.
            Who may call what is behind them is then no business of backstay's.
        accounts: The service's users, as logging in has to know them. With them the app has the routes that
            issue tokens and change passwords.
        api_keys: Whether API keys are good as bearer tokens.
        **options: Passed on to `FastAPI`.

    Raises:
        ConfigurationError: A setting or a declaration is wrong.
    """
    options.setdefault("title", settings.name)
    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # A span for each dependency, too, triples what a trace costs; FastAPI's own log records hold the
        # messages of errors, past every redaction.
        telemetry={"tracing": settings.telemetry.traces, "operation_spans": False, "logs": False},
        form_limits={
            "max_fields": settings.http.max_form_fields,
            "max_files": settings.http.max_form_files,
            "max_part_size": settings.http.max_body_bytes,
        },
        **options,
    )
    installation = install(app, settings, health_checks=health_checks)
    installation.response_headers = security_headers(is_exposed=settings.environment == "production")
    installation.max_body_bytes = settings.http.max_body_bytes
    installation.input_rules = InputRules.of_created(settings)
    installation.time_limits = TimeLimits.of_created(settings)
    installation.log_processors = tuple(log_processors)
    installation.is_created, installation.public_paths = True, tuple(public_paths)
    add_problem_handlers(app, shape=problem_shape)
    for router in (*add_identity(installation, accounts, api_keys=api_keys), *routers):
        app.include_router(router)
    check_idempotent_routes(app.routes)
    check_limits(app)
    check_clients(app, settings)
    refine_openapi(app, has_problems=problem_shape is problem_response)
    if serves_documentation(settings):
        add_documentation(app)
    return app


def install(app: FastAPI, settings: Settings, *, health_checks: Sequence[HealthCheck] = ()) -> Installation:
    """Give an existing app sessions, request ids, logs, metrics and health routes, and change no answer.

    Call it before the app serves, after its own middleware is added. Returns what is left at
    `app.state.backstay`.
    """
    installation = Installation(settings, routes=lambda: app.routes)
    app.state.backstay = installation
    app.add_middleware(BackstayMiddleware, installation=installation, between=_cross_origin(settings))
    app.router.lifespan_context = _lifespan_around(app.router.lifespan_context, installation)
    add_health(
        app,
        lambda: (*installation.checks(), *health_checks),
        is_draining=lambda: installation.stopping.is_draining,
    )
    add_metrics(app, lambda: installation.observation)
    return installation


def _lifespan_around(inner: Any, installation: Installation) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any] | None]:
        check_limits(app)  # of routes that came later, and of an app that `install` met
        require_shared_counters(app, installation.settings)
        require_shared_cache(installation.settings)
        check_clients(app, installation.settings)
        _settle_policies(app, installation)
        async with installation.running(), inner(app) as state:
            _settle_policies(app, installation)  # of what the app's own lifespan has added
            yield state

    return lifespan


def _settle_policies(app: FastAPI, installation: Installation) -> None:
    if demands_policies(installation.settings, is_created=installation.is_created):
        check_policies(app, public_paths=installation.public_paths)
    if installation.identity_options is None:
        check_identity(app)
    drop_markers(app)


def _cross_origin(settings: Settings) -> tuple[Callable[[ASGIApp], ASGIApp], ...]:
    if not settings.http.cors_origins:
        return ()
    return (
        partial(
            CORSMiddleware,
            allow_origins=settings.http.cors_origins,
            allow_credentials=settings.http.cors_credentials,
            allow_methods=("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("*",),
            expose_headers=(settings.http.request_id_header, *_EXPOSED_HEADERS),
        ),
    )

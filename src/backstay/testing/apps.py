"""Fixtures for the project's app: in the test's own event loop, or served by a real Uvicorn.

    async def test_a_product_is_shown(client: AsyncClient, session: AsyncSession) -> None:
        product = await ProductFactory.create(session)
        await session.commit()

        response = await client.get(f"/products/{product.id}")

The app is the one that pyproject.toml names, `[tool.backstay] app = "shop.main:app"`; override the fixture
`app` to test another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest

from backstay.db import AsyncSession
from backstay.errors import UsageError
from backstay.settings import Settings
from backstay.testing._project import find_installation, load_app

if TYPE_CHECKING:
    # Named in annotations only: a test that needs no app does not pay for importing these.
    from fastapi import FastAPI
    from httpx2 import AsyncClient, Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from backstay.app.runtime import Runtime
    from backstay.cache.cache import Cache

__all__ = ["LiveServer"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `backstay_app`."""
    parser.addini("backstay_app", "Where the app under test is, such as shop.main:app.", default="")


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running server."""

    url: str
    """Its address, without a slash at the end."""


@pytest.fixture
def app(request: pytest.FixtureRequest, settings: Settings) -> Iterator[FastAPI]:
    """Return the project's app with the settings of this test; whatever the test needs next starts it.

    Dependency overrides that a test leaves are taken away after it.
    """
    app = load_app(request.config)
    installation = find_installation(app)
    settings_before, overrides_before = installation.settings, dict(app.dependency_overrides)
    installation.settings = settings
    try:
        yield app
    finally:
        installation.settings = settings_before
        app.dependency_overrides = overrides_before


@pytest.fixture
async def _started_app(app: FastAPI, anyio_backend: object) -> AsyncIterator[ASGIApp]:
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"] = dict(state or {})
            await app(scope, receive, send)

        yield with_state


@pytest.fixture
async def _runtime_without_app(settings: Settings, anyio_backend: object) -> AsyncIterator[Runtime]:
    from backstay.app.runtime import open_runtime  # noqa: PLC0415  tests without an app do not pay

    async with open_runtime(settings) as runtime:
        yield runtime


@pytest.fixture
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Return the open parts of the service; `current_runtime()` finds them too.

    They are the app's own when the test asks for `app` or `client`. Else, and beside a `live_server`, whose
    parts live in another event loop, they are opened for this test on the same settings.
    """
    if "app" not in request.fixturenames or "live_server" in request.fixturenames:
        return cast("Runtime", request.getfixturevalue("_runtime_without_app"))
    request.getfixturevalue("_started_app")
    return cast("Runtime", find_installation(request.getfixturevalue("app")).runtime)


@pytest.fixture
def cache(runtime: Runtime) -> Cache:
    """Return the cache of the app, or of the runtime that is opened for this test.

    It is empty, whichever store it has: in Redis each test has a prefix of its own.
    """
    return runtime.cache


@pytest.fixture
def live_server(app: FastAPI) -> Iterator[LiveServer]:
    """Serve the app by a real Uvicorn on a free port; sync and async tests may call it."""
    from backstay.testing._live_server import serve  # noqa: PLC0415  tests without an app do not pay

    with serve(app) as url:
        yield LiveServer(url)


@pytest.fixture
async def client(
    app: FastAPI, _client_options: dict[str, Any], anyio_backend: object
) -> AsyncIterator[AsyncClient]:
    """Return an HTTP client of the app, or of the `live_server` when the test asks for that too.

    A call made while `session` has a transaction open is refused: the app would not see its rows, and on
    SQLite it would wait for its lock.
    """
    from httpx2 import AsyncClient  # noqa: PLC0415  tests without an app do not pay

    async with AsyncClient(**_client_options) as client:
        yield client


@pytest.fixture
def _client_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    from httpx2 import ASGITransport  # noqa: PLC0415  tests without an app do not pay

    options: dict[str, Any] = {}
    if "session" in request.fixturenames:
        options["event_hooks"] = {"request": [_refuse_while_open(request.getfixturevalue("session"))]}
    if "live_server" in request.fixturenames:
        return {**options, "base_url": request.getfixturevalue("live_server").url}
    started = request.getfixturevalue("_started_app")
    transport = ASGITransport(app=started, raise_app_exceptions=False)
    return {**options, "base_url": "http://testserver", "transport": transport}


def _refuse_while_open(session: AsyncSession) -> Callable[[Request], Awaitable[None]]:
    async def refuse(request: Request) -> None:
        if session.in_transaction():
            raise UsageError(
                f"The fixture `session` has an open transaction while the app is called ({request.method} "
                f"{request.url.path}): write `await session.commit()` first."
            )

    return refuse

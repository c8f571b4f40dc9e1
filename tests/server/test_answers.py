"""What every answer carries, whoever makes it: the app, the routing, the error handlers, the server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from pydantic import SecretStr

from backstay import Settings, create_app, public
from backstay.settings import DatabaseSettings, HttpSettings
from backstay.testing._live_server import serve

from .conftest import Answer, Wire, router


def make_app(environment: str = "production") -> FastAPI:
    app = create_app(
        Settings(
            environment=environment,
            database=DatabaseSettings(url=SecretStr("sqlite:///:memory:?cache=shared"))
            if environment != "production"
            else DatabaseSettings(url=SecretStr("postgresql://u:kX9eTqv2w@db.example/shop")),
            http=HttpSettings(docs=True, cors_origins=("https://page.example",)),
        ),
        routers=[router],
        dependencies=[public],
    )

    @app.get("/moved")
    async def move() -> RedirectResponse:
        return RedirectResponse("/path")

    @app.get("/own-policy")
    async def show_page() -> RedirectResponse:
        return RedirectResponse("/", headers={"Content-Security-Policy": "default-src 'self'"})

    return app


class _Unstarted:
    """An app whose lifespan does nothing: its database is not there."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
        else:
            await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def production() -> Iterator[str]:
    with serve(_Unstarted(make_app())) as url:
        yield url


REQUESTS = {
    "a success": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "no such route": (b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "no such method": (b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\r\n", 405),
    "an error": (b"GET /error HTTP/1.1\r\nHost: a\r\n\r\n", 500),
    "a redirect": (b"GET /moved HTTP/1.1\r\nHost: a\r\n\r\n", 307),
    "a redirect of the router": (b"GET /path/ HTTP/1.1\r\nHost: a\r\n\r\n", 307),
    "a large body": (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
    "bad JSON": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{",
        400,
    ),
    "a large head": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    "a malformed head": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "a preflight": (
        b"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: https://page.example\r\n"
        b"Access-Control-Request-Method: POST\r\n\r\n",
        200,
    ),
    "a refused preflight": (
        b"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\n"
        b"Access-Control-Request-Method: POST\r\n\r\n",
        400,
    ),
    "the document": (b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "liveness": (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", 200),
}


@pytest.mark.parametrize(("content", "status"), REQUESTS.values(), ids=REQUESTS)
def test_it_carries_the_security_headers(production: str, content: bytes, status: int) -> None:
    answer = _ask(production, content)

    assert answer.status == status
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["server"] is None
    for name in set(answer.headers):
        assert len(answer.headers.get_all(name) or []) == 1 or name == "vary"


def test_a_page_keeps_the_policy_that_lets_it_work(production: str) -> None:
    answer = _ask(production, b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"

    answer = _ask(production, b"GET /own-policy HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.headers["content-security-policy"] == "default-src 'self'"


def test_trace_sends_nothing_back(production: str) -> None:
    answer = _ask(production, b"TRACE / HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\r\n")

    assert b"secret" not in answer.body
    assert answer.headers["allow"] == "GET"


def test_outside_production_nobody_is_told_to_come_over_tls(start: Callable[..., str]) -> None:
    url = start(make_app("development"))
    for content in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
        assert _ask(url, content).headers["strict-transport-security"] is None


def test_an_origin_that_is_not_named_is_told_nothing(production: str) -> None:
    foreign = _ask(production, b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\n\r\n")
    named = _ask(production, b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://page.example\r\n\r\n")

    assert foreign.headers["access-control-allow-origin"] is None
    assert named.headers["access-control-allow-origin"] == "https://page.example"
    assert "Origin" in named.headers["vary"]


def _ask(url: str, content: bytes) -> Answer:
    with Wire(url) as wire:
        wire.send(content)
        return wire.read(content.split()[0].decode())

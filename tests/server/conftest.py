"""A service behind a real server, and a caller that sends bytes as they are."""

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from time import monotonic
from typing import Any, Self

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import SecretStr

from backstay import Settings, create_app, public
from backstay.settings import DatabaseSettings, ServerSettings
from backstay.testing._live_server import serve

PATIENCE_SECONDS = 20


class Answer:
    """One answer off the wire."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.closes = response.will_close

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(self.body)
        return document


class _Shared(io.BufferedReader):
    """What one answer leaves is there for the next: it outlives the answers that are read from it."""

    def close(self) -> None:
        pass


class Wire:
    """One connection."""

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_SECONDS)
        host, port = url.removeprefix("http://").split(":")
        self.socket.connect((host, int(port)))
        self.opened = monotonic()
        self._file = _Shared(socket.SocketIO(self.socket, "r"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def get(self, path: str = "/", **headers: str) -> Answer:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.send(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n".encode())
        return self.read()

    def read(self, method: str = "GET") -> Answer:
        response = HTTPResponse(self, method=method)  # type: ignore[arg-type]  # all that it asks for a file
        response.begin()
        return Answer(response)

    def makefile(self, mode: str) -> io.BufferedReader:
        return self._file

    def read_rest(self) -> bytes:
        """Return what comes until the server closes; a reset is an error."""
        return self._file.read()


router = APIRouter(dependencies=[public])


@router.get("/")
async def greet() -> str:
    return "hello"


@router.get("/path")
async def tell_path(request: Request) -> dict[str, Any]:
    return {"path": request.scope["path"], "host": request.headers.get("host"), "url": str(request.url)}


@router.get("/error")
async def fail() -> str:
    raise RuntimeError("nobody expected this")


@router.get("/wait")
async def wait(seconds: float = 0.3) -> str:
    await asyncio.sleep(seconds)
    return "waited"


@router.post("/echo")
async def echo(request: Request) -> dict[str, Any]:
    body = await request.body()
    names = [name.decode() for name, _ in request.scope["headers"]]
    return {"length": len(body), "body": body[:20].decode("latin-1"), "headers": names}


@router.post("/unread")
async def leave_unread() -> str:
    return "not looked at"


@router.get("/large")
async def stream(megabytes: int = 100) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(megabytes * 16):
            yield b"x" * 65536

    return StreamingResponse(pieces(), media_type="application/octet-stream")


def make_settings(environment: str = "development", /, **server: Any) -> Settings:
    return Settings(
        environment=environment,
        database=DatabaseSettings(url=SecretStr("sqlite://")),
        server=ServerSettings(**server),
    )


def make_app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Serves apps, and stops them with the test."""
    with ExitStack() as stack:

        def run(app: FastAPI | None = None, /, **server: Any) -> str:
            return stack.enter_context(serve(app or make_app(make_settings(**server))))

        yield run


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The service with its defaults."""
    with serve(make_app(make_settings())) as address:
        yield address

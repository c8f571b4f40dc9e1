"""A connection that is told to close still answers what was on its way in."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from backstay.testing import _live_server

from .conftest import Wire, make_app, make_settings


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[uvicorn.Server]:
    """The servers that the test starts."""
    started: list[uvicorn.Server] = []

    class Known(_live_server._Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            started.append(self)

    monkeypatch.setattr(_live_server, "_Server", Known)
    return started


@contextmanager
def _met_by_the_stop(servers: list[uvicorn.Server]) -> Iterator[Wire]:
    """Give an idle connection, to which its request comes while the server is about to close it."""
    app = make_app(make_settings())

    @app.get("/stop")
    async def stop() -> None:
        time.sleep(0.3)  # noqa: ASYNC251  so long the system takes what comes, and nobody reads it
        for connection in tuple(servers[0].server_state.connections):
            connection.shutdown()

    with _live_server.serve(app) as url, Wire(url) as idle, Wire(url) as other:
        assert idle.get().status == 200
        other.send(b"GET /stop HTTP/1.1\r\nHost: a\r\n\r\n")
        Timer(0.1, idle.send, [b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"]).start()
        time.sleep(0.2)
        yield idle


def test_uvicorn_alone_loses_a_request_that_meets_the_stop(
    servers: list[uvicorn.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live_server, "HttpProtocol", "httptools")
    with _met_by_the_stop(servers) as wire, pytest.raises(ConnectionError):
        wire.read()


def test_a_request_that_meets_the_stop_is_answered(servers: list[uvicorn.Server]) -> None:
    with _met_by_the_stop(servers) as wire:
        answer = wire.read()

        assert (answer.status, answer.body, answer.closes) == (200, b'"waited"', True)
        assert wire.read_rest() == b""


def test_what_has_begun_to_come_is_answered(servers: list[uvicorn.Server]) -> None:
    with _serving(make_app(make_settings()), servers) as (url, shut_down), Wire(url) as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost:")
        time.sleep(0.1)
        shut_down()
        wire.send(b" shop.example\r\n\r\n")
        answer = wire.read()

        assert (answer.status, answer.closes) == (200, True)


def test_what_is_being_answered_is_answered_and_an_idle_connection_is_closed(
    servers: list[uvicorn.Server],
) -> None:
    with (
        _serving(make_app(make_settings()), servers) as (url, shut_down),
        Wire(url) as wire,
        Wire(url) as idle,
    ):
        idle.get()
        wire.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.1)
        shut_down()

        assert idle.read_rest() == b""
        answer = wire.read()
        assert (answer.status, answer.closes) == (200, True)


@contextmanager
def _serving(app: FastAPI, servers: list[uvicorn.Server]) -> Iterator[tuple[str, Callable[[], Any]]]:
    @app.get("/shutdown")
    async def shut_down() -> None:
        for connection in tuple(servers[0].server_state.connections):
            connection.shutdown()

    with _live_server.serve(app) as url:

        def ask() -> None:
            with Wire(url) as wire:
                wire.get("/shutdown")

        yield url, ask

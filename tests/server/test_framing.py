"""What two readers could understand differently is refused, and the connection closed."""

from collections.abc import Callable
from time import sleep

import pytest
import uvicorn
from fastapi import FastAPI

from backstay.testing import _live_server

from .conftest import Wire, make_app, make_settings
from .smuggling import FOLLOWER, Malformed, malformed

SECURITY_HEADERS = {"x-content-type-options", "content-security-policy", "referrer-policy"}


@pytest.mark.parametrize("case", malformed(), ids=lambda case: case.name)
def test_it_is_refused_with_a_problem_and_the_connection_is_closed(url: str, case: Malformed) -> None:
    with Wire(url) as wire:
        wire.send(case.content + FOLLOWER)
        answer = wire.read("GET")

        assert answer.status == case.status
        assert answer.problem["requestId"] == answer.headers["x-request-id"]
        assert answer.problem["status"] == case.status
        assert {name.lower() for name in answer.headers} >= SECURITY_HEADERS
        assert answer.headers["server"] is None
        assert answer.headers["connection"] == "close"
        assert wire.read_rest() == b""  # nothing else, and no reset


def test_the_corpus_has_names_of_its_own() -> None:
    names = [case.name for case in malformed()]

    assert len(names) == len(set(names)) >= 70


def test_uvicorn_alone_answers_requests_without_a_host_and_takes_trailers_for_headers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_live_server, "HttpProtocol", "httptools")
    with _live_server.serve(make_app(make_settings())) as url, Wire(url) as wire:
        wire.send(b"GET / HTTP/1.1\r\n\r\n")
        assert wire.read().status == 200
        wire.send(_WITH_TRAILER)
        wire.read()
        wire.send(b"GET / HTTP/1.1\r\nHost: one\r\nHost: two\r\n\r\n")
        assert wire.read().status == 200


_WITH_TRAILER = (
    b"POST /echo HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\nX-Admin: yes\r\n\r\n"
)


def test_what_stands_behind_a_body_is_no_header(url: str) -> None:
    with Wire(url) as wire:
        wire.send(_WITH_TRAILER)
        answer = wire.read()

    assert answer.status == 200
    assert b'"body":"hello"' in answer.body
    assert b"admin" not in answer.body


@pytest.mark.parametrize(
    "head",
    [
        b"GET /path HTTP/1.1\r\nhost: shop.example:8000\r\n",
        b"GET /path HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n",
        b"GET http://shop.example/path HTTP/1.1\r\nHost: SHOP.example\r\n",
        b"\r\nGET /path HTTP/1.1\r\nHost: shop.example\r\n",
        b"GET /path HTTP/1.0\r\n",
    ],
)
def test_what_is_unusual_and_clear_is_answered(url: str, head: bytes) -> None:
    with Wire(url) as wire:
        wire.send(head + b"\r\n")
        answer = wire.read()

    assert answer.status == 200
    assert b'"path":"/path"' in answer.body


@pytest.mark.parametrize(
    "framed",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_a_body_behind_an_upgrade_that_is_not_taken_is_read(url: str, framed: bytes) -> None:
    """Java's own client offers HTTP/2 with its first request, also when that has a body."""
    with Wire(url) as wire:
        wire.send(
            b"POST /echo HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + framed + FOLLOWER
        )
        answer = wire.read()

        assert (answer.status, answer.closes) == (200, True)
        assert b'"body":"hello"' in answer.body
        assert wire.read_rest() == b""


def test_pipelined_requests_are_answered_in_order_and_what_is_malformed_behind_them_last(url: str) -> None:
    with Wire(url) as wire:
        wire.send(
            b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + FOLLOWER + b"GET / HTTP/1.1\r\nHost: a\nb\r\n\r\n"
        )

        assert [wire.read().status for _ in range(3)] == [200, 200, 400]
        assert wire.read_rest() == b""


def test_more_requests_than_may_wait_on_one_connection_are_not_kept(url: str) -> None:
    with Wire(url) as wire:
        wire.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + FOLLOWER * 2000)
        statuses: list[int] = []
        while not statuses or statuses[-1] == 200:
            statuses.append(wire.read().status)

        assert statuses == [200] * 65 + [503]


def test_a_malformed_body_is_refused_with_the_request_id_of_its_request(
    start: Callable[..., str],
) -> None:
    app: FastAPI = make_app(make_settings())
    with Wire(start(app)) as wire:
        wire.send(
            b"POST /echo HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n"
        )
        while not app.state.backstay.in_flight:
            sleep(0.01)
        wire.send(b"nonsense\r\n")
        answer = wire.read()

        assert (answer.status, answer.problem["requestId"]) == (400, "mine")
        assert wire.read_rest() == b""


def test_uvicorn_has_the_hooks_that_are_overridden() -> None:
    """A release that renames one would switch a bound off without a word."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from backstay.server import HttpProtocol

    own = {"check", "__init__", "__module__", "__doc__"}
    overridden = {
        name
        for name, value in vars(HttpProtocol).items()
        if callable(value) and not name.startswith("_") and name not in own
    }

    assert {name for name in overridden if not hasattr(HttpToolsProtocol, name)} == set()
    assert uvicorn.__version__

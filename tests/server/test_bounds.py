"""Every wait on a caller ends, and no head is read further than it may be long."""

import json
import logging
import socket
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import pytest
from pydantic import SecretStr

from backstay import Settings, create_app, public
from backstay.settings import DatabaseSettings, HttpSettings, ServerSettings
from backstay.testing import _live_server

from .conftest import Wire, make_app, make_settings, router

SHORT = {"header_timeout": "500ms", "stall_timeout": "500ms", "keep_alive": "500ms"}
SLACK_SECONDS = 2.5
"""A busy machine is late; what waits for ever is later."""


@pytest.fixture(scope="module")
def hasty() -> Iterator[str]:
    """A service that waits for half a second, and never longer than one and a half for a body."""
    with _live_server.serve(make_app(make_settings(**SHORT, body_timeout="1500ms"))) as address:
        yield address


class TestWaiting:
    def test_uvicorn_alone_waits_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_live_server, "HttpProtocol", "httptools")
        with _live_server.serve(make_app(make_settings(**SHORT))) as url, Wire(url) as wire:
            wire.send(b"GET / HTTP/1.1\r\nHost:")
            wire.socket.settimeout(1.5)
            with pytest.raises(TimeoutError):
                wire.socket.recv(1)

    def test_a_connection_without_a_request_is_closed_in_silence(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            assert wire.read_rest() == b""
            assert 0.5 <= monotonic() - wire.opened < 0.5 + SLACK_SECONDS

    def test_a_head_that_does_not_end_is_a_408(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            wire.send(b"GET / HTTP/1.1\r\nHost: shop.ex")
            answer = wire.read()
            assert wire.read_rest() == b""

        assert (answer.status, answer.closes, answer.problem["code"]) == (408, True, "request_timeout")
        assert monotonic() - wire.opened < 0.5 + SLACK_SECONDS

    def test_progress_does_not_save_a_head(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            assert _drip(wire, b"GET / HTTP/1.1\r\nX-A: ", seconds=0.5 + SLACK_SECONDS) == 408

    def test_a_later_head_has_its_own_time(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            for _ in range(3):  # together they take longer than one may
                wire.send(b"GET / HTTP/1.1\r\nHost:")
                sleep(0.3)
                wire.send(b" shop.example\r\n\r\n")
                assert wire.read().status == 200

    def test_a_body_that_stops_is_a_408(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nContent-Length: 9\r\n\r\nhe")
            answer = wire.read()
            assert wire.read_rest() == b""

        assert (answer.status, answer.problem["requestId"]) == (408, "mine")
        assert monotonic() - wire.opened < 0.5 + SLACK_SECONDS

    def test_a_trickle_does_not_save_a_body(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n"
            assert _drip(wire, head, seconds=0.5 + SLACK_SECONDS) == 408

    def test_a_body_that_comes_fast_enough_has_its_time_in_all(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n")
            assert _drip(wire, b"", piece=b"x" * 1000, seconds=1.5 + SLACK_SECONDS) == 408
            assert monotonic() - wire.opened > 1.5

    def test_who_is_slow_and_fast_enough_is_answered(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
            for _ in range(10):
                sleep(0.08)
                wire.send(b"x" * 500)
            assert wire.read().status == 200

    def test_a_connection_that_is_not_used_again_is_closed(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            assert wire.get().closes is False
            answered = monotonic()
            assert wire.read_rest() == b""
            assert 0.4 < monotonic() - answered < 0.5 + SLACK_SECONDS

    def test_a_long_answer_is_no_reason_to_close(self, hasty: str) -> None:
        with Wire(hasty) as wire:
            assert wire.get("/wait?seconds=0.8").status == 200
            assert wire.get().status == 200

    def test_who_does_not_read_is_cut_off(self, hasty: str) -> None:
        with Wire(hasty, receive_buffer=4096) as wire:
            wire.send(b"GET /large HTTP/1.1\r\nHost: shop.example\r\n\r\n")
            _wait_until_cut_off(wire, seconds=0.5 + SLACK_SECONDS)

    def test_who_reads_a_trickle_is_cut_off(self, hasty: str) -> None:
        with Wire(hasty, receive_buffer=4096) as wire:
            wire.send(b"GET /large HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
            _wait_until_cut_off(wire, seconds=0.5 + SLACK_SECONDS, reading=1)

    def test_who_reads_is_served_to_the_end(self, hasty: str) -> None:
        with Wire(hasty, receive_buffer=65536) as wire:
            answer = wire.get("/large?megabytes=20")

        assert len(answer.body) == 20 * 1024 * 1024

    def test_a_caller_that_leaves_in_the_middle_of_its_body_is_no_error(
        self, start: Callable[..., str], caplog: pytest.LogCaptureFixture
    ) -> None:
        app = make_app(make_settings())
        with Wire(start(app)) as wire:
            wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhe")
            while not app.state.backstay.in_flight:
                sleep(0.01)
        while app.state.backstay.in_flight:
            sleep(0.01)

        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
        assert "The caller left before its request was whole." in caplog.messages


def _drip(wire: Wire, head: bytes, *, seconds: float, piece: bytes = b"x") -> int | None:
    """Send a piece every 50 ms, and return the status that ends it."""
    wire.send(head)
    wire.socket.settimeout(0.05)
    while monotonic() - wire.opened < seconds:
        try:
            return int(wire.socket.recv(65536).split()[1])
        except TimeoutError:
            wire.send(piece)
    return None


def _wait_until_cut_off(wire: Wire, *, seconds: float, reading: int = 0) -> None:
    wire.socket.settimeout(seconds)
    while monotonic() - wire.opened < seconds:
        sleep(0.05)
        # Sending tells of a reset without reading.
        try:
            wire.socket.send(b"\r\n")
            if reading:
                wire.socket.recv(reading)
        except (ConnectionResetError, BrokenPipeError):
            return
    raise AssertionError("The connection is still open.")


class TestHeads:
    @pytest.mark.parametrize(
        ("content", "status"),
        [
            (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
            (b"GET /?" + b"x" * 50_000_000, 414),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 40_000 + b"\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 50_000_000, 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x" * 50_000_000, 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 2000 + b"\r\n", 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 5_000_000, 431),
        ],
        ids=["target", "50 MB target", "value", "50 MB value", "50 MB name", "2,000 lines", "30 MB of lines"],
    )
    def test_one_that_is_too_large_is_refused_and_the_connection_closed(
        self, url: str, content: bytes, status: int
    ) -> None:
        with Wire(url) as wire:
            try:
                wire.send(content)
            except (ConnectionResetError, BrokenPipeError):
                assert len(content) > 10_000_000  # nobody reads that to its end
            answer = wire.read()

        assert (answer.status, answer.closes) == (status, True)
        assert answer.problem["requestId"] == answer.headers["x-request-id"]

    def test_one_that_comes_in_pieces_is_counted_together(self, url: str) -> None:
        with Wire(url) as wire:
            wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ")
            for _ in range(60):
                wire.send(b"x" * 1000)
                sleep(0.001)
            assert wire.read().status == 431

    def test_one_within_the_limits_is_served_however_it_comes(self, start: Callable[..., str]) -> None:
        lines = b"".join(b"X-%05d: %s\r\n" % (number, b"x" * 300) for number in range(95))
        content = b"GET /path?" + b"x" * 8000 + b" HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
        with Wire(start()) as wire:
            wire.send(content)
            assert wire.read().status == 200
            for position in range(0, len(content), 1000):
                wire.send(content[position : position + 1000])
                sleep(0.001)
            assert wire.read().status == 200

    def test_the_settings_are_asked(self, start: Callable[..., str]) -> None:
        settings = Settings(
            database=DatabaseSettings(url=SecretStr("sqlite://")),
            http=HttpSettings(max_headers=3, max_target_bytes=20, request_id_header="X-Trace"),
        )
        with Wire(start(create_app(settings, routers=[router], dependencies=[public]))) as wire:
            assert wire.get("/path").status == 200
            wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\nE: f\r\n\r\n")
            answer = wire.read()
        assert answer.status == 431
        assert answer.problem["requestId"] == answer.headers["x-trace"]


class TestBodies:
    def test_an_answer_that_comes_before_the_body_reaches_a_caller_that_still_sends(self, url: str) -> None:
        with Wire(url) as wire:
            wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n")
            sent = 0
            try:
                for _ in range(200):
                    wire.send(b"x" * 65536)
                    sent += 65536
            except (ConnectionResetError, BrokenPipeError):
                pass
            answer = wire.read("POST")

        assert (answer.status, answer.closes) == (413, True)
        assert json.loads(answer.body)["code"] == "content_too_large"

    def test_a_body_that_the_route_does_not_read_costs_no_connection_when_it_is_here(self, url: str) -> None:
        with Wire(url) as wire:
            for _ in range(3):
                wire.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
                assert wire.read("POST").closes is False

    def test_a_body_that_is_not_here_yet_is_not_waited_for(self, url: str) -> None:
        with Wire(url) as wire:
            wire.send(
                b"POST /unread HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            )
            answer = wire.read("POST")
            assert (answer.status, answer.closes) == (200, True)
            assert wire.read_rest() == b""

    def test_who_asks_whether_to_go_on_is_told_so(self, url: str) -> None:
        with Wire(url) as wire:
            wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            assert wire.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            wire.send(b"hello")
            answer = wire.read("POST")
            assert (answer.status, answer.closes) == (200, False)


def test_a_hundred_errors_lose_no_connection(url: str) -> None:
    with Wire(url) as wire:
        assert [wire.get("/error").status for _ in range(100)] == [500] * 100
        assert wire.get().status == 200


def test_plain_fastapi_loses_its_connection_with_each_error() -> None:
    from fastapi import FastAPI

    app = FastAPI()
    app.include_router(router)
    with _live_server.serve(app) as url, Wire(url) as wire:
        assert wire.get("/error").status == 500
        assert wire.socket.recv(1) == b""  # closed, though nobody said so


def test_a_server_that_bounds_an_app_of_others_has_defaults() -> None:
    from backstay.server.bounds import Bounds

    assert Bounds.of_app(object()).header_seconds == ServerSettings().header_timeout.total_seconds()


def test_a_socket_that_is_only_half_open_is_not_kept(url: str) -> None:
    with Wire(url) as wire:
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.read_rest() == b""

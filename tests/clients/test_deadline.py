"""A call ends in time, whatever the other side does."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx2
import pytest
from httpx2 import AsyncByteStream, AsyncClient, MockTransport, Request, Response

from backstay.clients import create_client
from backstay.deadline import deadline
from backstay.errors import UpstreamTimeoutError

SHORT = timedelta(milliseconds=200)
LONG = timedelta(minutes=1)


class Dripping(AsyncByteStream):
    """A body that gives a byte now and then, and never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.02)


async def hang(request: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


async def drip(request: Request) -> Response:
    return Response(200, stream=Dripping())


@pytest.mark.parametrize("respond", [hang, drip])
async def test_a_call_takes_no_longer_than_its_timeout(respond: object) -> None:
    transport = MockTransport(respond)  # type: ignore[arg-type]  # both are handlers
    async with create_client("rates", base_url="http://rates", transport=transport, timeout=SHORT) as rates:
        started = time.monotonic()
        with pytest.raises(UpstreamTimeoutError) as caught:
            await rates.get("/")

    assert 0.19 < time.monotonic() - started < 2.0
    assert isinstance(caught.value, httpx2.TimeoutException)
    assert str(caught.value.request.url) == "http://rates/"


async def test_httpx_alone_waits_as_long_as_bytes_drip() -> None:
    """Its timeouts are for each step."""
    async with AsyncClient(transport=MockTransport(drip), timeout=0.1) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.get("http://rates/")


async def test_the_deadline_of_the_request_shortens_it() -> None:
    transport = MockTransport(hang)
    async with create_client("rates", base_url="http://rates", transport=transport, timeout=LONG) as rates:
        started = time.monotonic()
        with deadline(SHORT), pytest.raises(UpstreamTimeoutError):
            await rates.get("/")

    assert time.monotonic() - started < 2.0


async def test_nothing_is_sent_when_the_deadline_has_passed() -> None:
    calls: list[Request] = []

    def note(request: Request) -> Response:
        calls.append(request)
        return Response(200)

    async with create_client("rates", base_url="http://rates", transport=MockTransport(note)) as rates:
        with deadline(timedelta(0)), pytest.raises(UpstreamTimeoutError, match="no time left"):
            await rates.get("/")

    assert calls == []


async def test_redirects_share_the_time_of_one_call() -> None:
    async def turn_around(request: Request) -> Response:
        await asyncio.sleep(0.05)
        return Response(302, headers={"Location": "/again"})

    transport = MockTransport(turn_around)
    async with create_client("rates", base_url="http://rates", transport=transport, timeout=SHORT) as rates:
        rates.max_redirects = 1000
        with pytest.raises(UpstreamTimeoutError):
            await rates.get("/", follow_redirects=True)


async def test_a_request_that_is_sent_twice_has_its_time_twice() -> None:
    async def be_slow(request: Request) -> Response:
        await asyncio.sleep(0.15)
        return Response(200)

    transport = MockTransport(be_slow)
    timeout = timedelta(milliseconds=250)
    async with create_client("rates", base_url="http://rates", transport=transport, timeout=timeout) as rates:
        request = rates.build_request("GET", "/")

        assert [(await rates.send(request)).status_code for _ in range(2)] == [200, 200]


def test_a_name_that_nobody_resolves_is_part_of_the_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer blocks for 5 s and more."""
    is_over = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        is_over.wait(10)
        raise socket.gaierror

    async def call() -> float:
        started = time.monotonic()
        async with create_client(
            "rates", base_url="http://rates.example", connect_timeout=SHORT, retries=0
        ) as rates:
            with pytest.raises(UpstreamTimeoutError, match="ConnectTimeout"):
                await rates.get("/")
        waited = time.monotonic() - started
        is_over.set()  # the thread that looks it up ends with the loop
        return waited

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    assert 0.19 < asyncio.run(call()) < 5.0

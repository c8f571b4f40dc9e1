"""A host that does not answer is not asked."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import httpx2
import pytest
from httpx2 import AsyncClient, MockTransport, Request, Response

from backstay.breaker import Breaker
from backstay.clients._breakers import BreakerLayer
from backstay.errors import UpstreamUnavailableError


class Upstream:
    """Answers with a status, or hangs without one."""

    def __init__(self, status: int | None = 200) -> None:
        self.status = status
        self.calls: list[str] = []
        self.seconds = 0.0

    async def respond(self, request: Request) -> Response:
        self.calls.append(request.url.host)
        if self.status is None:
            await asyncio.Event().wait()
        if self.status == 0:
            raise httpx2.ConnectError("refused")
        return Response(self.status or 500)

    def client(self, *, patience: timedelta = timedelta(seconds=5)) -> AsyncClient:
        layer = BreakerLayer(
            MockTransport(self.respond),
            "rates",
            patience=patience,
            make_breaker=lambda: Breaker(clock=lambda: self.seconds),
        )
        return AsyncClient(transport=layer, base_url="http://rates")


async def fail(client: AsyncClient, url: str = "/", *, times: int = 5) -> None:
    for _ in range(times):
        with suppress(httpx2.ConnectError):
            await client.get(url)


@pytest.mark.parametrize("status", [0, 502, 503, 504])
async def test_it_opens_after_five_failures_and_tells_when_to_come_back(status: int) -> None:
    upstream = Upstream(status)

    async with upstream.client() as client:
        await fail(client)
        with pytest.raises(UpstreamUnavailableError) as caught:
            await client.get("/")

    assert len(upstream.calls) == 5
    assert caught.value.headers == {"Retry-After": "1"}


@pytest.mark.parametrize("status", [200, 404, 429, 500])
async def test_answers_leave_it_closed(status: int) -> None:
    upstream = Upstream(status)

    async with upstream.client() as client:
        await fail(client, times=30)

    assert len(upstream.calls) == 30


async def test_each_host_has_its_own() -> None:
    upstream = Upstream(503)

    async with upstream.client() as client:
        await fail(client, "http://down/")
        upstream.status = 200

        assert (await client.get("http://up/")).status_code == 200
        with pytest.raises(UpstreamUnavailableError):
            await client.get("http://down/")


async def test_after_a_pause_one_call_tries_and_closes_it() -> None:
    upstream = Upstream(503)

    async with upstream.client() as client:
        await fail(client)
        upstream.status, upstream.seconds = 200, 10.0

        assert [(await client.get("/")).status_code for _ in range(3)] == [200, 200, 200]


async def give_up(client: AsyncClient) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.get("/")


async def test_hanging_for_the_whole_patience_is_a_failure() -> None:
    upstream = Upstream(None)

    async with upstream.client(patience=timedelta(milliseconds=50)) as client:
        for _ in range(5):
            await give_up(client)
        with pytest.raises(UpstreamUnavailableError):
            await client.get("/")


async def test_callers_that_leave_early_say_nothing_about_the_host() -> None:
    """A caller with 50 ms left must not close the door for all others."""
    upstream = Upstream(None)

    async with upstream.client(patience=timedelta(seconds=60)) as client:
        for _ in range(10):
            await give_up(client)
        upstream.status = 200

        assert (await client.get("/")).status_code == 200


async def test_it_remembers_a_thousand_hosts_and_no_more() -> None:
    upstream = Upstream(200)

    async with upstream.client() as client:
        for number in range(1100):
            await client.get(f"http://host-{number}/")
        layer = client._transport

    assert isinstance(layer, BreakerLayer)
    assert len(layer._breakers) == 1000

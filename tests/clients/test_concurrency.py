"""How many calls may be under way at once."""

import asyncio
from datetime import timedelta

import pytest
from httpx2 import AsyncClient, ByteStream, MockTransport, Request, Response

from backstay.clients._concurrency import ConcurrencyLayer
from backstay.errors import UpstreamUnavailableError


class Upstream:
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.arrived = 0
        self._news = asyncio.Condition()

    async def respond(self, request: Request) -> Response:
        async with self._news:
            self.arrived += 1
            self._news.notify_all()
        await self.let_go.wait()
        return Response(200, stream=ByteStream(b"{}"))

    async def have(self, count: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self.arrived >= count)

    def client(self, *, limit: int, wait: timedelta) -> AsyncClient:
        layer = ConcurrencyLayer(MockTransport(self.respond), "rates", limit=limit, wait=wait)
        return AsyncClient(transport=layer, base_url="http://rates")


async def test_one_more_waits_for_its_turn() -> None:
    upstream = Upstream()

    async with upstream.client(limit=2, wait=timedelta(minutes=1)) as client:
        calls = [asyncio.create_task(client.get("/")) for _ in range(3)]
        await upstream.have(2)
        await asyncio.sleep(0)
        assert upstream.arrived == 2
        upstream.let_go.set()
        await asyncio.gather(*calls)

    assert upstream.arrived == 3


async def test_who_waits_too_long_is_refused() -> None:
    upstream = Upstream()

    async with upstream.client(limit=1, wait=timedelta(milliseconds=20)) as client:
        first = asyncio.create_task(client.get("/"))
        await upstream.have(1)
        with pytest.raises(UpstreamUnavailableError, match="too many calls"):
            await client.get("/")
        upstream.let_go.set()
        await first


async def test_an_answer_keeps_its_place_until_it_is_closed() -> None:
    upstream = Upstream()
    upstream.let_go.set()

    async with upstream.client(limit=1, wait=timedelta(milliseconds=20)) as client:
        async with client.stream("GET", "/"):
            with pytest.raises(UpstreamUnavailableError):
                await client.get("/")

        assert (await client.get("/")).status_code == 200


async def test_cancelled_calls_give_their_place_back() -> None:
    upstream = Upstream()

    async with upstream.client(limit=2, wait=timedelta(minutes=1)) as client:
        calls = [asyncio.create_task(client.get("/")) for _ in range(20)]
        await upstream.have(2)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        upstream.let_go.set()

        assert (await client.get("/")).status_code == 200
        layer = client._transport

    assert isinstance(layer, ConcurrencyLayer)
    assert layer._slots._value == 2

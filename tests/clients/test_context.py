"""What a call tells about the request that it is made for, and to whom."""

from datetime import timedelta
from typing import Any

import pytest
from httpx2 import AsyncClient, MockTransport, Request, Response

from backstay.clients import build_client, create_client
from backstay.deadline import deadline
from backstay.settings import ClientSettings


class Hosts:
    """Answers for every host, and notes the request id that it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []

    def respond(self, request: Request) -> Response:
        self.told.append((request.url.host, request.headers.get("X-Request-ID")))
        if request.url.path == "/away":
            return Response(302, headers={"Location": "http://elsewhere.example/"})
        if request.url.path == "/here":
            return Response(302, headers={"Location": "/away"})
        return Response(200)

    def client(self) -> AsyncClient:
        return create_client(
            "rates",
            base_url="http://rates.example",
            transport=MockTransport(self.respond),
            context_headers=lambda: {"X-Request-ID": "abc-1"},
        )


async def test_the_host_of_the_client_is_told_as_long_as_it_is_that_host() -> None:
    hosts = Hosts()

    async with hosts.client() as rates:
        await rates.get("/here", follow_redirects=True)

    assert hosts.told[:2] == [("rates.example", "abc-1"), ("rates.example", "abc-1")]
    assert hosts.told[2:] == [("elsewhere.example", None)]


async def test_another_host_is_not_and_neither_by_a_redirect() -> None:
    hosts = Hosts()

    async with hosts.client() as rates:
        await rates.get("http://elsewhere.example/")
        await rates.get("/away", follow_redirects=True)

    assert hosts.told[0] == ("elsewhere.example", None)
    assert hosts.told[1:] == [("rates.example", "abc-1"), ("elsewhere.example", None)]


async def test_a_header_of_the_call_itself_wins_and_stays() -> None:
    hosts = Hosts()

    async with hosts.client() as rates:
        await rates.get("/away", headers={"x-request-id": "mine"}, follow_redirects=True)

    assert hosts.told == [("rates.example", "mine"), ("elsewhere.example", "mine")]


class Deadlines:
    """Redirects and fails as it is told, and notes what it was told of the time that is left."""

    def __init__(self, *statuses: int) -> None:
        self.told: list[tuple[str, str | None]] = []
        self._statuses = list(statuses)

    def respond(self, request: Request) -> Response:
        self.told.append((request.url.host, request.headers.get("X-Left")))
        if request.url.path == "/away":
            return Response(302, headers={"Location": "http://elsewhere.example/"})
        return Response(self._statuses.pop(0) if self._statuses else 200)

    def client(self, *, header: str = "X-Left", passes: bool = True) -> AsyncClient:
        settings = ClientSettings(
            base_url="http://rates.example", pass_deadline=passes, timeout=timedelta(seconds=8)
        )
        return build_client(
            "rates",
            settings,
            context_headers=dict,
            transport=MockTransport(self.respond),
            deadline_header=header,
        )


async def test_the_host_of_the_client_is_told_how_much_time_is_left() -> None:
    hosts = Deadlines()

    async with hosts.client() as rates:
        await rates.get("/")
        with deadline(timedelta(seconds=2)):
            await rates.get("/")
        await rates.get("/away", follow_redirects=True)

    left = [int(told or 0) for _, told in hosts.told[:2]]
    assert 7_500 < left[0] <= 8_000
    assert 1_500 < left[1] <= 2_000
    assert hosts.told[3] == ("elsewhere.example", None)


async def test_each_attempt_tells_what_is_left_then() -> None:
    hosts = Deadlines(503)

    async with hosts.client() as rates:
        await rates.get("/")

    first, second = (int(told or 0) for _, told in hosts.told)
    assert second <= first


@pytest.mark.parametrize("options", [{"passes": False}, {"header": ""}], ids=str)
async def test_it_is_not_told_unless_the_settings_say_so(options: dict[str, Any]) -> None:
    hosts = Deadlines()

    async with hosts.client(**options) as rates:
        await rates.get("/")

    assert hosts.told == [("rates.example", None)]

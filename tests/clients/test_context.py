"""What a call tells about the request that it is made for, and to whom."""

from httpx2 import AsyncClient, MockTransport, Request, Response

from backstay.clients import create_client


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

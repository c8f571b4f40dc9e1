"""What `create_client` makes of its options."""

import logging
from datetime import timedelta

import pytest
from httpx2 import AsyncClient, MockTransport, Request, Response, Timeout
from pydantic import SecretStr

from backstay.clients import create_client
from backstay.errors import ConfigurationError

LOG = "httpx2"


def respond(request: Request) -> Response:
    return Response(200, json={"url": str(request.url), "agent": request.headers["User-Agent"]})


async def test_it_is_a_real_client_with_the_timeouts_of_its_options() -> None:
    async with create_client(
        "rates", base_url="http://rates/v1", user_agent="shop/2", read_timeout=timedelta(seconds=7)
    ) as client:
        assert type(client) is AsyncClient
        assert client.timeout == Timeout(connect=2.0, read=7.0, write=5.0, pool=1.0)
        assert client.headers["User-Agent"] == "shop/2"


async def test_without_a_base_url_each_call_names_a_whole_one() -> None:
    async with create_client("any", transport=MockTransport(respond)) as client:
        shown = (await client.get("http://rates.example/v1")).json()

    assert shown == {"url": "http://rates.example/v1", "agent": "backstay"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": 11}, "`retries` of the client 'rates': "),
        ({"concurrency": 0}, "`concurrency` of the client 'rates': "),
        ({"base_url": "rates.example"}, "`base_url` of the client 'rates': "),
        ({"base_uri": "http://rates"}, "`base_uri` of the client 'rates': "),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_client("rates", **options)  # type: ignore[arg-type]  # that is the point


def test_a_wrong_proxy_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_client("rates", proxy=SecretStr("hunter2"))

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_proxy_is_asked_instead() -> None:
    async with create_client("rates", base_url="http://rates", proxy=SecretStr("http://proxy:3128")) as rates:
        transport = rates._transport
        while hasattr(transport, "_inner"):
            transport = transport._inner

    assert "HTTPProxy" in type(transport._pool).__name__  # type: ignore[attr-defined]  # HTTPX's own


def give_a_cookie(request: Request) -> Response:
    return Response(
        200, headers={"Set-Cookie": "session=ada; Path=/"}, text=request.headers.get("Cookie", "")
    )


async def test_a_cookie_that_one_call_was_given_is_not_sent_with_the_next() -> None:
    """They may be made for different callers."""
    transport = MockTransport(give_a_cookie)
    async with create_client("rates", base_url="http://rates", transport=transport) as rates:
        first = await rates.get("/")

        assert first.cookies["session"] == "ada"
        assert (await rates.get("/")).text == ""
        assert (await rates.get("/", headers={"Cookie": "mine=1"})).text == "mine=1"

    async with AsyncClient(base_url="http://rates", transport=transport) as plain:
        await plain.get("/")
        assert (await plain.get("/")).text == "session=ada"


def test_a_level_that_somebody_chose_for_the_log_of_httpx_stays() -> None:
    logger = logging.getLogger(LOG)
    before = logger.level
    try:
        logger.setLevel(logging.DEBUG)
        create_client("rates", base_url="http://rates")
        assert logger.level == logging.DEBUG
        logger.setLevel(logging.NOTSET)
        create_client("rates", base_url="http://rates")
        assert logger.level == logging.WARNING
    finally:
        logger.setLevel(before)


async def test_who_stops_reading_ends_the_call_without_an_error() -> None:
    async with create_client("rates", base_url="http://rates", transport=MockTransport(respond)) as rates:
        async with rates.stream("GET", "/") as response:
            chunks = response.aiter_bytes(1)
            assert await anext(chunks)
            await chunks.aclose()
            await response.aclose()
        assert (await rates.get("/")).status_code == 200

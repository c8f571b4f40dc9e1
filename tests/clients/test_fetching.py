"""Answers become objects, or an error that says why not."""

import httpx2
import pytest
from httpx2 import AsyncClient, MockTransport, Request, Response
from pydantic import BaseModel

from backstay.clients import create_client, fetch
from backstay.errors import UpstreamAnswerError, UpstreamError, UpstreamTimeoutError, UpstreamUnavailableError


class Rate(BaseModel):
    currency: str
    rate: float


RATES = [{"currency": "EUR", "rate": 1.1}]


def client_of(answer: Response | Exception) -> AsyncClient:
    def respond(request: Request) -> Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = MockTransport(respond)
    return create_client("rates", base_url="http://rates.example/v1", transport=transport, retries=0)


async def test_an_answer_becomes_what_was_asked_for() -> None:
    async with client_of(Response(200, json=RATES)) as rates:
        assert await fetch(rates, "GET", "/rates", returns=list[Rate]) == [Rate(currency="EUR", rate=1.1)]
        assert await fetch(rates, "GET", "/rates", returns=list[dict[str, object]]) == RATES


async def test_query_body_and_headers_are_sent() -> None:
    def echo(request: Request) -> Response:
        shown = [str(request.url), request.content.decode(), request.headers["idempotency-key"]]
        return Response(201, json=shown)

    async with create_client("rates", base_url="http://rates/v1", transport=MockTransport(echo)) as rates:
        shown = await fetch(
            rates,
            "POST",
            "/rates",
            returns=list[str],
            params={"day": 1},
            json={"a": 1},
            headers={"Idempotency-Key": "k"},
        )

    assert shown == ["http://rates/v1/rates?day=1", '{"a":1}', "k"]


async def test_another_shape_is_told_without_the_answer() -> None:
    body = [{"currency": "hunter2", "rate": "hunter2"}, {"rate": 1}, {}, {}]

    async with client_of(Response(200, json=body)) as rates:
        with pytest.raises(UpstreamAnswerError) as caught:
            await fetch(rates, "GET", "/rates", returns=list[Rate])

    error = caught.value
    assert str(error) == (
        "Client 'rates': the answer does not fit: 0.rate (float_parsing), 1.currency (missing), "
        "2.currency (missing) and 3 more"
    )
    assert (error.client, error.upstream_status, error.status) == ("rates", 200, 502)
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff"])
async def test_what_is_no_json_does_not_fit(content: bytes) -> None:
    async with client_of(Response(200, content=content)) as rates:
        with pytest.raises(UpstreamAnswerError, match="all of it"):
            await fetch(rates, "GET", "/rates", returns=list[Rate])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, UpstreamAnswerError),
        (404, UpstreamAnswerError),
        (500, UpstreamAnswerError),
        (429, UpstreamUnavailableError),
        (503, UpstreamUnavailableError),
    ],
)
async def test_an_error_status_is_an_error(status: int, kind: type[UpstreamError]) -> None:
    async with client_of(Response(status, json=RATES)) as rates:
        with pytest.raises(kind) as caught:
            await fetch(rates, "GET", "/rates", returns=list[Rate])

    assert caught.value.upstream_status == status


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx2.ConnectTimeout("slow"), UpstreamTimeoutError),
        (httpx2.ConnectError("refused"), UpstreamUnavailableError),
        (httpx2.PoolTimeout("full"), UpstreamUnavailableError),
        (httpx2.RemoteProtocolError("no HTTP"), UpstreamAnswerError),
    ],
)
async def test_a_failure_has_a_type_with_any_client(failure: Exception, kind: type[UpstreamError]) -> None:
    def fail(request: Request) -> Response:
        raise failure

    plain = AsyncClient(transport=MockTransport(fail), base_url="http://rates.example")
    for client in (client_of(failure), plain):
        async with client:
            with pytest.raises(kind) as caught:
                await fetch(client, "GET", "/rates", returns=list[Rate])
            assert isinstance(caught.value, httpx2.TransportError)


async def test_a_mistake_of_ours_stays_what_it_is() -> None:
    async with client_of(httpx2.UnsupportedProtocol("ftp")) as rates:
        with pytest.raises(httpx2.UnsupportedProtocol):
            await fetch(rates, "GET", "ftp://rates.example/", returns=list[Rate])

"""Each call is told of once, without what must not be shown."""

import asyncio
import logging

import httpx2
import pytest
from httpx2 import MockTransport, Request, Response

from backstay.clients import create_client
from backstay.errors import UpstreamError
from backstay.events import UpstreamCalled
from backstay.testing import Events


def respond(request: Request) -> Response:
    if request.url.path == "/broken":
        raise httpx2.ConnectError("refused by 10.0.0.7")
    return Response(int(request.url.params.get("status", "200")), json={})


def client() -> httpx2.AsyncClient:
    return create_client("rates", base_url="http://rates.example", transport=MockTransport(respond))


async def test_an_answer_is_an_event(events: Events) -> None:
    async with client() as rates:
        await rates.get("/rates?status=404")

    [event] = events.of(UpstreamCalled)
    assert event.seconds > 0
    assert (event.client, event.method, event.host) == ("rates", "GET", "rates.example")
    assert (event.status, event.error, event.attempts) == (404, None, 1)


async def test_a_failure_is_an_event_with_its_attempts(events: Events) -> None:
    async with client() as rates:
        with pytest.raises(UpstreamError):
            await rates.get("/broken")

    [event] = events.of(UpstreamCalled)
    assert (event.status, event.error, event.attempts) == (None, "upstream_unavailable", 2)


async def test_a_call_that_was_given_up_is_an_event(events: Events) -> None:
    async def hang(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with create_client("rates", base_url="http://rates", transport=MockTransport(hang)) as rates:
        call = asyncio.create_task(rates.get("/"))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    assert [event.error for event in events.of(UpstreamCalled)] == ["cancelled"]


async def test_a_streamed_answer_ends_with_its_reader(events: Events) -> None:
    async with client() as rates, rates.stream("GET", "/rates"):
        assert events.of(UpstreamCalled) == []

    assert len(events.of(UpstreamCalled)) == 1


async def test_each_call_is_one_log_line_without_query_and_user(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async with client() as rates:
        await rates.get("http://ada:hunter2@rates.example/rates?iban=DE02&status=200")
        with pytest.raises(UpstreamError):
            await rates.get("/broken?iban=DE02")

    assert [record.name for record in caplog.records] == ["backstay.clients"] * 2
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert vars(caplog.records[0])["url"] == "http://rates.example/rates"
    shown = str([vars(record) for record in caplog.records])
    assert [secret for secret in ("hunter2", "DE02", "10.0.0.7") if secret in shown] == []


async def test_httpx_alone_logs_the_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="httpx2")

    async with httpx2.AsyncClient(transport=MockTransport(respond)) as plain:
        await plain.get("http://rates.example/rates?iban=DE02")

    assert "DE02" in caplog.text

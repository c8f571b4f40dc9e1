"""The steps of a stop, in the process of a server that only writes down when it is told."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from backstay import Settings, create_app, public
from backstay.app import stopping
from backstay.app.stopping import Stopping, drain_time
from backstay.settings import DatabaseSettings, ServerSettings

from .conftest import Ask


@pytest.fixture
def told() -> Iterator[list[int]]:
    """What the server was told: it handles signals, as every server does."""
    heard: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda number, frame: heard.append(number))
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


@asynccontextmanager
async def _serving(**server: Any) -> AsyncIterator[tuple[FastAPI, Stopping]]:
    database = DatabaseSettings(url=SecretStr("sqlite://"))
    settings = Settings(environment="test", database=database, server=ServerSettings(**server))
    app = create_app(settings, dependencies=[public])

    @app.get("/wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    async with app.router.lifespan_context(app):
        yield app, app.state.backstay.stopping


async def _signal(number: int) -> None:
    os.kill(os.getpid(), number)
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_server_is_told_when_the_drain_is_over(ask: Ask, told: list[int]) -> None:
    async with _serving(drain=timedelta(milliseconds=200)) as (app, steps):
        assert (await ask(app, "GET", "/livez")).headers.get("connection") is None
        await _signal(signal.SIGTERM)

        assert (told, steps.is_draining) == ([], True)
        answer = await ask(app, "GET", "/readyz")
        assert (answer.status, answer.json["detail"]) == (503, "The service is stopping.")
        assert answer.headers["connection"] == "close"
        await asyncio.sleep(0.3)
        assert told == [signal.SIGTERM]


async def test_what_comes_twice_at_once_is_the_same_news_and_what_comes_later_hurries(
    ask: Ask, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(stopping, "monotonic", lambda: now)
    async with _serving(drain="1h", grace="1h") as (_, steps):
        await _signal(signal.SIGTERM)
        now += 1
        await _signal(signal.SIGTERM)
        assert told == []

        now += 2.5
        await _signal(signal.SIGTERM)
        assert (told, steps.seconds_left()) == ([signal.SIGTERM], 3600)

        now += 2.5
        await _signal(signal.SIGTERM)
        assert (told, steps.seconds_left()) == ([signal.SIGTERM], 1)


async def test_ctrl_c_does_not_drain(told: list[int]) -> None:
    async with _serving(drain="1h"):
        await _signal(signal.SIGINT)

        assert told == [signal.SIGINT]


async def test_when_the_grace_is_over_requests_are_told_so(ask: Ask, told: list[int]) -> None:
    async with _serving(drain="0", grace=timedelta(milliseconds=100)) as (app, _):
        asked = asyncio.create_task(ask(app, "GET", "/wait"))
        await asyncio.sleep(0)
        await _signal(signal.SIGTERM)
        answer = await asked

    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert answer.json["detail"] == "The service is stopping."


async def test_the_servers_own_handlers_are_there_again_after_the_stop(told: list[int]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with _serving():
        assert signal.getsignal(signal.SIGTERM) not in before

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_where_no_server_handles_signals_they_are_left_alone() -> None:
    async with _serving():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_limit_on_the_grace_holds_whatever_the_settings_say(told: list[int]) -> None:
    app = create_app(Settings(server=ServerSettings(grace=timedelta(seconds=30))), dependencies=[public])
    app.state.backstay.stopping.limit_grace(timedelta(seconds=2))
    async with app.router.lifespan_context(app):
        assert app.state.backstay.stopping.seconds_left() == 2


@pytest.mark.parametrize(
    ("environment", "drain", "seconds"),
    [("development", None, 0), ("test", None, 0), ("production", None, 10), ("development", "3s", 3)],
)
def test_only_production_drains_unless_it_is_said(environment: Any, drain: Any, seconds: float) -> None:
    settings = Settings.model_construct(environment=environment, server=ServerSettings(drain=drain))

    assert drain_time(settings) == timedelta(seconds=seconds)

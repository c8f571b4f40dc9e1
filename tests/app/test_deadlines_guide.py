"""The guide to deadlines does what it says."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient

from backstay import create_app, public
from backstay.settings import Settings

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "deadlines.md").read_text("utf-8")


@pytest.fixture
def names() -> dict[str, Any]:
    """What the guide's code defines, and what it takes for granted."""
    names: dict[str, Any] = {"router": APIRouter(dependencies=[public]), "asyncio": asyncio}
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        exec(block, names)  # noqa: S102  our own guide
    return names


@pytest.fixture
def app(settings: Settings, names: dict[str, Any]) -> FastAPI:
    return create_app(settings, routers=[names["router"]])


async def test_a_block_has_the_time_that_it_is_given(client: AsyncClient) -> None:
    assert 1 < (await client.get("/prices")).json()["secondsLeft"] <= 2


async def test_a_stream_with_the_marker_outlives_the_deadline(
    ask: Any, running: Any, settings: Settings, names: dict[str, Any]
) -> None:
    http = settings.http.model_copy(update={"deadline": timedelta(milliseconds=150)})
    app = create_app(settings.model_copy(update={"http": http}), routers=[names["router"]])
    in_short = {"X-Request-Timeout-Ms": "300"}
    async with running(app):
        streamed = asyncio.create_task(ask(app, "GET", "/clock"))
        cut = await ask(app, "GET", "/clock", headers=in_short)  # its caller does not wait for longer
        await asyncio.sleep(0)
        assert not streamed.done()
        streamed.cancel()
        await asyncio.wait([streamed])

    assert cut.body.count(b"data:") == 1


def test_its_settings_exist() -> None:
    for section, name in re.findall(r"`(http|database|server)\.(\w+)`", GUIDE):
        assert name in type(getattr(Settings(environment="test"), section)).model_fields

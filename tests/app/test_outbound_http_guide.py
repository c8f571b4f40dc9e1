"""The guide to calls to other services does what it says."""

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient

from backstay import create_app, public
from backstay.errors import UpstreamUnavailableError
from backstay.settings import ClientSettings, Settings
from backstay.testing import HttpMock

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "outbound-http.md").read_text("utf-8")
TESTS = re.findall(r"^async def (test_\w+)", GUIDE, re.MULTILINE)


@pytest.fixture
def names() -> dict[str, Any]:
    """What the guide's code defines, and what it takes for granted."""
    names: dict[str, Any] = {"router": APIRouter(), "__name__": "guide"}
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        exec(block, names)  # noqa: S102  our own guide
    return names


@pytest.fixture
def settings(settings: Settings, names: dict[str, Any]) -> Settings:
    return settings.model_copy(update={"clients": names["ShopSettings"]().clients})


@pytest.fixture
def app(settings: Settings, names: dict[str, Any]) -> FastAPI:
    return create_app(settings, routers=[names["router"]], dependencies=[public])


@pytest.mark.parametrize("test", TESTS)
async def test_its_tests_pass(
    test: str, client: AsyncClient, http_mock: HttpMock, names: dict[str, Any]
) -> None:
    await names[test](client, http_mock)


@pytest.mark.parametrize(("status", "answered"), [(404, 404), (500, 502), (503, 503)])
async def test_an_error_status_becomes_what_it_says(
    client: AsyncClient, http_mock: HttpMock, status: int, answered: int
) -> None:
    http_mock.get("https://rates.example/v1/rates/XYZ").respond(status)

    assert (await client.get("/prices/XYZ")).status_code == answered


async def test_hooks_are_delivered_to_public_addresses_only(
    http_mock: HttpMock, names: dict[str, Any]
) -> None:
    http_mock.post("https://hook.example/").respond(204)

    assert await names["deliver"]("https://hook.example/", {"order": "7"}) == 204
    with pytest.raises(UpstreamUnavailableError):
        await names["deliver"]("http://hook.example/", {"order": "7"})


def test_the_defaults_that_it_shows_are_the_defaults() -> None:
    shown = dict(
        re.findall(r"^\| `(timeout|retries|user_agent|proxy)` \| `?([^`|]+?)`? \|", GUIDE, re.MULTILINE)
    )
    defaults = ClientSettings(base_url="https://rates.example")

    assert shown == {"timeout": "10s", "retries": "2", "user_agent": "the service's name", "proxy": "none"}
    assert (defaults.timeout.total_seconds(), defaults.retries) == (10, 2)
    assert (defaults.concurrency, defaults.max_response_bytes) == (50, 10 * 1024 * 1024)
    steps = [defaults.connect_timeout, defaults.read_timeout, defaults.write_timeout, defaults.pool_timeout]
    assert [step.total_seconds() for step in steps] == [2, 5, 5, 1]

"""The guide to rate limits does what it says."""

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from httpx2 import AsyncClient

from backstay import create_app, public
from backstay.errors import UnauthenticatedError
from backstay.settings import Settings

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "rate-limits.md").read_text("utf-8")


def _refuse() -> None:
    raise UnauthenticatedError("The name or the password is wrong.")


@pytest.fixture
def names() -> dict[str, Any]:
    """What the guide's code defines, and what it takes for granted."""
    names: dict[str, Any] = {
        "router": APIRouter(),
        "LoginForm": Annotated[None, Depends(_refuse)],
        "Tokens": None,
        "WRONG": {},
        "AsyncClient": AsyncClient,
    }
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        exec(block, names)  # noqa: S102  our own guide
    return names


@pytest.fixture
def app(settings: Settings, names: dict[str, Any]) -> FastAPI:
    return create_app(settings, routers=[names["router"]], dependencies=[public])


async def test_its_test_passes(client: AsyncClient, names: dict[str, Any]) -> None:
    await names["test_the_sixth_login_is_refused"](client)


async def test_the_answer_that_it_shows_is_the_answer(client: AsyncClient) -> None:
    shown = re.search(r"^```console\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    for _ in range(5):
        await client.post("/login")

    response = await client.post("/login")

    headers = ("Retry-After", "RateLimit-Policy", "RateLimit")
    answered = [f"{name}: {response.headers[name]}" for name in headers]
    answered += [f'"{name}":"{response.json()[name]}"' for name in ("title", "detail", "code")]
    assert [line for line in answered if _without_time(line) not in _without_time(shown[1])] == []


def _without_time(text: str) -> str:
    return re.sub(r"(?<=Retry-After: )\d+|(?<=;t=)\d+|(?<=again in )\d+", "N", text)


async def test_its_limit_in_a_function_holds(client: AsyncClient) -> None:
    statuses = [
        (await client.post(f"/password-resets?email={email}")).status_code
        for email in ("ada@example.org", "Ada@example.org", "ADA@EXAMPLE.ORG", "ada@example.org")
    ]

    assert statuses == [200, 200, 200, 429]

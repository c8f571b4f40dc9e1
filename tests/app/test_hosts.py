"""A service that knows its names answers to no other; what a request says of itself decides nothing else."""

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from pydantic import ValidationError

from backstay import Settings, create_app
from backstay.settings import HttpSettings

from .conftest import Ask

router = APIRouter()


@router.get("/inside")
async def look_inside() -> str:
    return "inside"


def make_app(*hosts: str) -> FastAPI:
    return create_app(Settings(http=HttpSettings(allowed_hosts=hosts)), routers=[router])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("shop.example", 200),
        ("SHOP.example:8443", 200),
        ("shop.example.", 200),
        ("a.api.shop.example", 200),
        ("[2001:db8::1]:80", 200),
        ("api.shop.example", 421),
        ("shop.example.evil.example", 421),
        ("evilshop.example", 421),
        ("127.0.0.1", 421),
        ("", 421),
    ],
)
async def test_a_service_with_names_answers_to_these(ask: Ask, host: str, status: int) -> None:
    app = make_app("shop.example", "*.api.shop.example", "[2001:db8::1]")

    answer = await ask(app, "GET", "/inside", headers={"host": host})

    assert answer.status == status
    if status == 421:
        assert answer.json["code"] == "misdirected_request"
        assert answer.headers["content-type"] == "application/problem+json"
        assert host not in answer.body.decode() or not host


async def test_probes_may_call_by_address(ask: Ask) -> None:
    assert (
        await ask(make_app("shop.example"), "GET", "/livez", headers={"host": "10.1.2.3:8000"})
    ).status == 200


async def test_without_names_any_is_answered_to(ask: Ask) -> None:
    assert (await ask(make_app(), "GET", "/inside", headers={"host": "evil.example"})).status == 200


@pytest.mark.parametrize("host", ["https://shop.example", "shop.example:80", "*", "shop.*", "a b", ""])
def test_a_name_that_could_never_match_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match=r"names without scheme and port, such as shop\.example"):
        HttpSettings(allowed_hosts=(host,))


async def test_a_path_and_query_that_are_too_long_are_refused_behind_any_server(ask: Ask) -> None:
    answer = await ask(make_app(), "GET", f"/inside?{'x' * 9000}")

    assert (answer.status, answer.json["code"]) == (414, "uri_too_long")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-host": "evil.example"},
        {"x-forwarded-prefix": "/evil"},
        {"x-original-url": "/livez"},
        {"x-rewrite-url": "/livez"},
        {"forwarded": "host=evil.example"},
    ],
)
async def test_headers_of_proxies_lead_to_no_other_route(ask: Ask, headers: dict[str, str]) -> None:
    """The router and every policy look at `scope["path"]`, which the server reads from the request line."""
    answer: Any = await ask(make_app("testserver"), "GET", "/inside", headers=headers)

    assert (answer.status, answer.body) == (200, b'"inside"')

"""Clients in handlers: made once, checked at the start, and telling for whom they call."""

from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI
from httpx2 import AsyncClient
from pydantic import BaseModel

from backstay import client as client_of
from backstay import create_app, create_client, current_runtime, fetch, install, open_runtime, public
from backstay.app.explanation import parts
from backstay.errors import ConfigurationError, UsageError
from backstay.settings import ClientSettings, Settings, SettingsConfigDict
from backstay.testing import HttpMock

RATES = "https://rates.example/v1/rates"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Rates = Annotated[AsyncClient, client_of("rates")]


class Rate(BaseModel):
    currency: str
    rate: float


router = APIRouter()


@router.get("/prices")
async def read_prices(rates: Rates) -> list[Rate]:
    return await fetch(rates, "GET", "/rates", returns=list[Rate])


@router.get("/plain")
async def read_plainly(rates: Rates) -> str:
    return (await rates.get("/rates")).text


@router.get("/own")
async def read_with_a_client_of_its_own() -> str:
    async with create_client("own", base_url="https://rates.example/v1") as own:
        return (await own.get("/rates")).text


@router.get("/same")
async def compare(rates: Rates) -> bool:
    return rates is current_runtime().client("rates")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    clients = {"rates": ClientSettings(base_url="https://rates.example/v1", retries=0)}
    telemetry = settings.telemetry.model_copy(update={"metrics": True})
    return settings.model_copy(update={"clients": clients, "telemetry": telemetry, "name": "shop"})


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


async def test_a_handler_gets_the_client_of_the_service(client: AsyncClient, http_mock: HttpMock) -> None:
    route = http_mock.get(RATES).respond(json=[{"currency": "EUR", "rate": 1.1}])

    response = await client.get("/prices")

    assert response.json() == [{"currency": "EUR", "rate": 1.1}]
    assert route.calls.last.request.headers["User-Agent"] == "shop"


async def test_there_is_one_for_the_whole_process(client: AsyncClient) -> None:
    assert (await client.get("/same")).json() is True


@pytest.mark.parametrize(
    ("path", "answer", "status", "code"),
    [
        ("/prices", {"status_code": 500}, 502, "upstream_answer"),
        ("/prices", {"json": [{"currency": "hunter2"}]}, 502, "upstream_answer"),
        ("/prices", {"status_code": 503}, 503, "upstream_unavailable"),
    ],
)
async def test_an_answer_of_no_use_is_a_problem_that_tells_nothing_of_it(
    client: AsyncClient, http_mock: HttpMock, path: str, answer: dict[str, object], status: int, code: str
) -> None:
    http_mock.get(RATES).respond(**answer)  # type: ignore[arg-type]  # what a parameter of the test holds

    response = await client.get(path)

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert [word for word in ("rates", "hunter2", "currency") if word in response.text] == []


@pytest.mark.parametrize(
    ("error", "status"), [("ConnectError", 503), ("ReadTimeout", 504), ("RemoteProtocolError", 502)]
)
async def test_a_failure_that_the_handler_lets_pass_is_no_500(
    client: AsyncClient, http_mock: HttpMock, error: str, status: int
) -> None:
    import httpx2

    http_mock.get(RATES).mock(side_effect=getattr(httpx2, error)("at 10.0.0.7"))

    response = await client.get("/plain")

    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "10.0.0.7" not in response.text


@pytest.mark.parametrize("path", ["/plain", "/own"])
async def test_the_request_id_and_the_trace_are_passed_on(
    client: AsyncClient, http_mock: HttpMock, path: str
) -> None:
    route = http_mock.get(RATES).respond(text="1")

    response = await client.get(path, headers={"X-Request-ID": "abc-1", "traceparent": TRACE})

    sent = route.calls.last.request.headers
    assert response.headers["X-Request-ID"] == sent["X-Request-ID"] == "abc-1"
    assert sent["traceparent"] == TRACE


async def test_another_host_is_told_neither(client: AsyncClient, app: FastAPI, http_mock: HttpMock) -> None:
    @app.get("/elsewhere")
    async def call_elsewhere(rates: Rates) -> str:
        return (await rates.get("https://elsewhere.example/")).text

    route = http_mock.get("https://elsewhere.example/").respond(text="1")

    await client.get("/elsewhere", headers={"X-Request-ID": "abc-1", "traceparent": TRACE})

    sent = route.calls.last.request.headers
    assert [name for name in ("X-Request-ID", "traceparent") if name in sent] == []


async def test_calls_are_measured_by_client_and_outcome(client: AsyncClient, http_mock: HttpMock) -> None:
    http_mock.get(RATES).respond(404)
    await client.get("/plain")

    text = (await client.get("/metrics")).text

    assert 'backstay_upstream_call_duration_seconds_count{client="rates",outcome="4xx"} 1.0' in text


def test_a_route_that_asks_for_an_unknown_client_stops_the_start() -> None:
    class ShopSettings(Settings):
        model_config = SettingsConfigDict(env_prefix="SHOP_")

    settings = ShopSettings(clients={"rate": ClientSettings(base_url="https://rates.example")})

    with pytest.raises(ConfigurationError) as caught:
        create_app(settings, routers=[router], dependencies=[public])

    assert str(caught.value) == (
        "GET /prices asks for the client 'rates', which no setting names. Did you mean 'rate'?"
    )
    assert "SHOP_CLIENTS__RATES__BASE_URL" in (caught.value.hint or "")


def test_it_is_found_behind_other_dependencies() -> None:
    async def read_rate(rates: Annotated[AsyncClient, client_of("rates")]) -> float:
        return 1.0

    inner = APIRouter()

    @inner.get("/price")
    async def read_price(rate: Annotated[float, Depends(read_rate)]) -> float:
        return rate

    with pytest.raises(ConfigurationError, match="GET /price asks for the client 'rates'"):
        create_app(Settings(environment="test"), routers=[inner], dependencies=[public])


async def test_an_app_that_had_its_routes_before_is_checked_when_it_starts() -> None:
    app = FastAPI()
    app.include_router(router)
    install(app, Settings(environment="test"))

    with pytest.raises(ConfigurationError, match="asks for the client 'rates'"):
        async with app.router.lifespan_context(app):
            pass


async def test_scripts_have_the_same_clients_and_they_are_closed_at_the_end(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        rates = runtime.client("rates")
        assert runtime.client("rates") is rates
        with pytest.raises(UsageError, match=r"No setting names a client 'rate'\. Did you mean 'rates'\?"):
            runtime.client("rate")

    assert rates.is_closed


async def test_a_call_outside_of_a_request_has_no_id_to_pass_on(
    settings: Settings, http_mock: HttpMock
) -> None:
    route = http_mock.get(RATES).respond(json=[])

    async with open_runtime(settings) as runtime:
        await runtime.client("rates").get("/rates")

    assert "X-Request-ID" not in route.calls.last.request.headers


def test_explain_lists_the_clients(settings: Settings) -> None:
    shown = {part.name: str(part) for part in parts(settings)}

    assert "clients" not in shown
    assert shown["client rates"].startswith("client rates: at https://rates.example/v1, because ")
    assert [str(part) for part in parts(Settings()) if part.name == "clients"] == [
        "clients: off, because no setting names one"
    ]

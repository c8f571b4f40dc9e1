"""`http_mock` answers what the app asks of others, and lets nothing through."""

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient

from backstay import create_app, create_client, fetch, public
from backstay.errors import UpstreamTimeoutError
from backstay.settings import Settings
from backstay.testing import HttpMock, LiveServer

from .conftest import Project

RATES = "https://rates.example/v1/rates"

router = APIRouter()


@router.get("/prices")
async def read_prices() -> list[int]:
    async with create_client("rates", base_url="https://rates.example/v1") as rates:
        return await fetch(rates, "GET", "/rates", returns=list[int])


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


async def test_a_route_answers_for_the_other_service(client: AsyncClient, http_mock: HttpMock) -> None:
    route = http_mock.get(RATES).respond(json=[1, 2])

    response = await client.get("/prices")

    assert (response.status_code, response.json(), route.call_count) == (200, [1, 2], 1)


async def test_a_route_may_fail_as_a_network_does(http_mock: HttpMock) -> None:
    http_mock.get(RATES).mock(side_effect=httpx2.ConnectTimeout("slow"))

    async with create_client("rates", base_url="https://rates.example/v1") as rates:
        with pytest.raises(UpstreamTimeoutError):
            await rates.get("/rates")


def test_a_synchronous_client_is_answered_too(http_mock: HttpMock) -> None:
    http_mock.get(RATES).respond(text="five")

    assert httpx2.get(RATES).text == "five"


async def test_a_client_for_public_addresses_looks_no_name_up(http_mock: HttpMock) -> None:
    http_mock.post("https://hook.example/").respond(204)

    async with create_client("hooks", public_only=True) as hooks:
        assert (await hooks.post("https://hook.example/")).status_code == 204


async def test_the_live_server_is_reached(http_mock: HttpMock, live_server: LiveServer) -> None:
    http_mock.get(RATES).respond(json=[1, 2])

    async with AsyncClient(base_url=live_server.url) as caller:
        assert (await caller.get("/prices")).json() == [1, 2]


INNER = """
    import httpx2
    import pytest
    from fastapi import APIRouter
    from backstay import create_app, create_client, public

    router = APIRouter()

    @router.get("/prices")
    async def read_prices() -> str:
        async with create_client("rates", base_url="https://rates.example") as rates:
            return (await rates.get("/rates?day=1")).text

    @pytest.fixture
    def app(settings):
        return create_app(settings, routers=[router], dependencies=[public])
"""


def test_a_call_that_no_route_mocks_fails_the_test_with_its_url(project: Project) -> None:
    """Although the app turned it into an answer, which the test took for what it wanted."""
    result = project.test(
        f"""{INNER}
    async def test_prices(client, http_mock):
        assert (await client.get("/prices")).status_code == 500
        """
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*GET https://rates.example/rates[?]day=1*"])


def test_a_test_that_fails_because_of_it_tells_its_url_too(project: Project) -> None:
    result = project.test(
        f"""{INNER}
    async def test_prices(client, http_mock):
        assert (await client.get("/prices")).status_code == 200

    def test_another_way(http_mock):
        httpx2.post("https://rates.example/new")
        """
    )

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*GET https://rates.example/rates[?]day=1*"])
    result.stdout.fnmatch_lines(["*POST https://rates.example/new*"])


def test_the_test_after_it_is_not_mocked(project: Project) -> None:
    result = project.test(
        """
    import httpcore2

    before = httpcore2.AsyncConnectionPool.handle_async_request

    def test_mocked(http_mock):
        assert httpcore2.AsyncConnectionPool.handle_async_request is not before

    def test_plain():
        assert httpcore2.AsyncConnectionPool.handle_async_request is before
        """
    )

    result.assert_outcomes(passed=2)

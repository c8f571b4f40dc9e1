"""Other services, mocked.

    async def test_a_price_is_converted(client: AsyncClient, http_mock: HttpMock) -> None:
        http_mock.get("https://rates.example/v1/rates").respond(json=[{"currency": "EUR", "rate": 1.1}])

        response = await client.get("/prices")

`http_mock` is a router of respx, whose documentation says what routes can do. Nothing reaches the network
while a test has it, and a call that no route mocks fails the test, also when the app made an answer of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from backstay.testing._http_mocking import HttpMock
    from backstay.testing.apps import LiveServer


@pytest.fixture
def http_mock(request: pytest.FixtureRequest) -> Iterator[HttpMock]:
    """Answer the calls that the app makes to other services; calls to a `live_server` go through."""
    from backstay.testing._http_mocking import HttpMock  # noqa: PLC0415  tests without it do not pay

    mock = HttpMock()
    if "live_server" in request.fixturenames:
        server = cast("LiveServer", request.getfixturevalue("live_server"))
        address = urlsplit(server.url)
        mock.route(host=address.hostname, port=address.port).pass_through()
    with mock:
        yield mock


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose calls were not all mocked."""
    __tracebackhide__ = True
    try:
        result = yield
    except BaseException as error:
        if message := _tell_unmocked(item):
            error.add_note(message)
        raise
    if message := _tell_unmocked(item):
        pytest.fail(message, pytrace=False)
    return result


def _tell_unmocked(item: pytest.Item) -> str:
    mock: HttpMock | None = getattr(item, "funcargs", {}).get("http_mock")
    if mock is None or not mock.unmocked:
        return ""
    lines = "".join(f"\n    {call}" for call in dict.fromkeys(mock.unmocked))
    return f"No route of `http_mock` mocks these calls:{lines}"

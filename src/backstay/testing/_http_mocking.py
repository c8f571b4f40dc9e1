"""respx over the HTTP client of backstay.

respx patches HTTPX and httpcore; HTTPX2 has a core of its own, which it does not know yet.
"""

from __future__ import annotations

import httpcore2
import httpx
from respx import MockRouter
from respx.mocks import HTTPCoreMocker
from respx.models import AllMockedAssertionError

__all__ = ["HttpMock"]


class _Mocker(HTTPCoreMocker):
    name = "backstay"
    targets = [target.replace("httpcore.", "httpcore2.") for target in HTTPCoreMocker.targets]  # noqa: RUF012  respx's own class attribute

    @classmethod
    def from_sync_httpx_response(
        cls, httpx_response: httpx.Response, target: object, **kwargs: object
    ) -> httpcore2.Response:
        return httpcore2.Response(
            status=httpx_response.status_code,
            headers=httpx_response.headers.raw,
            content=httpx_response.stream,
            extensions=dict(httpx_response.extensions),
        )


class HttpMock(MockRouter):
    """The routes of a test, as in respx; and the calls that none of them answered.

    Attributes:
        unmocked: `GET https://rates.example/rates` for each of them.
    """

    def __init__(self) -> None:
        super().__init__(using=_Mocker.name, assert_all_called=False)
        self.unmocked: list[str] = []

    def handler(self, request: httpx.Request) -> httpx.Response:
        """Answer a call of a synchronous client."""
        try:
            return super().handler(request)
        except AllMockedAssertionError as error:
            raise self._note(request) from error

    async def async_handler(self, request: httpx.Request) -> httpx.Response:
        """Answer a call of an asynchronous client."""
        try:
            return await super().async_handler(request)
        except AllMockedAssertionError as error:
            raise self._note(request) from error

    def _note(self, request: httpx.Request) -> AllMockedAssertionError:
        call = f"{request.method} {request.url}"
        self.unmocked.append(call)
        return AllMockedAssertionError(f"No route mocks {call}.")

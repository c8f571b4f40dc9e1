"""What a call tells about the request that it is made for: its id, and the trace that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from httpx2 import URL, AsyncBaseTransport, Request, Response

from backstay.clients._transports import Layer

__all__ = ["ContextHeaders", "ContextLayer"]

_ADDED: Final = "backstay.context"

ContextHeaders: TypeAlias = Callable[[], Mapping[str, str]]
"""Returns the headers that a call made now passes on; who knows about requests and traces provides it."""


class ContextLayer(Layer):
    """Add headers of the context to calls to the client's own host; others get nothing to know us by."""

    def __init__(self, inner: AsyncBaseTransport, *, base_url: str, headers: ContextHeaders) -> None:
        super().__init__(inner)
        self._host = URL(base_url).host
        self._headers = headers

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request with what the context adds; headers of the call itself win."""
        if request.url.host == self._host:
            self._add(request)
        else:
            _take_away(request)
        return await self._inner.handle_async_request(request)

    def _add(self, request: Request) -> None:
        headers = {name: value for name, value in self._headers().items() if name not in request.headers}
        request.headers.update(headers)
        request.extensions[_ADDED] = (*request.extensions.get(_ADDED, ()), *headers)


def _take_away(request: Request) -> None:
    # A redirect to another host comes with the headers of the request before it, and with its extensions.
    for name in request.extensions.get(_ADDED, ()):
        request.headers.pop(name, None)

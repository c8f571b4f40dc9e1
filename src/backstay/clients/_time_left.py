"""What a call tells the other side about the time that is left: nobody works for a caller who is gone."""

from __future__ import annotations

from httpx2 import URL, AsyncBaseTransport, Request, Response

from backstay.clients._transports import Layer
from backstay.deadline import seconds_left

__all__ = ["TimeLeftLayer"]


class TimeLeftLayer(Layer):
    """Say in a header how many milliseconds are left for the call, to the client's own host.

    It is as far inside as can be: what an attempt waited for before it is sent is over by then.
    """

    def __init__(self, inner: AsyncBaseTransport, *, base_url: str, header: str) -> None:
        super().__init__(inner)
        self._host = URL(base_url).host
        self._header = header

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request with the time that is left now."""
        left = seconds_left()
        if request.url.host == self._host and left is not None:
            request.headers[self._header] = str(int(left * 1000))
        else:
            request.headers.pop(self._header, None)  # of the request that was redirected here
        return await self._inner.handle_async_request(request)

"""The body of an answer: unpacked here, and no longer than it may be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from httpx2 import AsyncBaseTransport, AsyncByteStream, Request, Response

from backstay.clients._errors import BadAnswerError
from backstay.clients._transports import Layer

__all__ = ["AnswerLayer"]

_OF_THE_PACKED_BODY: Final = ("Content-Encoding", "Content-Length")


class AnswerLayer(Layer):
    """Unpack gzip, deflate, br and zstd in steps of at most 1 MiB, and stop at the limit.

    What is above sees a body that was never packed; `aiter_raw()` gives it unpacked too.
    """

    def __init__(self, inner: AsyncBaseTransport, client: str, *, most_bytes: int) -> None:
        super().__init__(inner)
        self._client = client
        self._most_bytes = most_bytes

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request, and unpack the answer."""
        response = await self._inner.handle_async_request(request)
        if request.method != "HEAD" and self._is_too_long(response):
            await response.aclose()
            raise BadAnswerError(self._client, f"the answer has over {self._most_bytes} bytes")
        stream = _UnpackedStream(response, self._client, most_bytes=self._most_bytes)
        headers = response.headers.copy()
        if "Content-Encoding" in headers:
            for name in _OF_THE_PACKED_BODY:
                headers.pop(name, None)
        return Response(response.status_code, headers=headers, stream=stream, extensions=response.extensions)

    def _is_too_long(self, response: Response) -> bool:
        declared = response.headers.get("Content-Length", "")
        return declared.isascii() and declared.isdigit() and int(declared[:18]) > self._most_bytes


class _UnpackedStream(AsyncByteStream):
    def __init__(self, response: Response, client: str, *, most_bytes: int) -> None:
        self._response = response
        self._client = client
        self._most_bytes = most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read_bytes = 0
        async with aclosing(self._response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                read_bytes += len(chunk)
                if read_bytes > self._most_bytes:
                    raise BadAnswerError(self._client, f"the answer has over {self._most_bytes} bytes")
                yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()

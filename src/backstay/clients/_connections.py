"""Connections go back to their pool whole, also when who used them is called off meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from httpx2 import AsyncBaseTransport, AsyncByteStream, Request, Response

from backstay.clients._transports import Layer, body_of

__all__ = ["ReturnLayer"]


class ReturnLayer(Layer):
    """Close bodies in tasks of their own.

    The pool of HTTPX shields its closing from the cancel scopes of anyio, but not from `Task.cancel()`: cut
    off there, it keeps the request for ever.
    """

    def __init__(self, inner: AsyncBaseTransport) -> None:
        super().__init__(inner)
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request."""
        response = await self._inner.handle_async_request(request)
        response.stream = _ReturnedStream(body_of(response), self)
        return response

    async def close_body(self, body: AsyncByteStream) -> None:
        """Close a body, to the end."""
        task = asyncio.create_task(body.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await asyncio.shield(task)

    async def aclose(self) -> None:
        """Close all connections, after the bodies that are being closed."""
        if self._closing:
            await asyncio.wait(self._closing)
        await super().aclose()


class _ReturnedStream(AsyncByteStream):
    def __init__(self, stream: AsyncByteStream, layer: ReturnLayer) -> None:
        self._stream = stream
        self._layer = layer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        await self._layer.close_body(self._stream)

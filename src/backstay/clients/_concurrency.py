"""How many calls may be under way at once: a service that got slow must not take all of this one."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from httpx2 import AsyncBaseTransport, Request, Response

from backstay.clients._errors import CallRefusedError
from backstay.clients._transports import EndingStream, Layer, body_of

__all__ = ["ConcurrencyLayer"]


class ConcurrencyLayer(Layer):
    """Admit so many calls at once; a call ends when its answer was read or closed.

    Args:
        inner: What sends.
        client: The name of the client.
        limit: So many.
        wait: How long one more waits before it is refused.
    """

    def __init__(self, inner: AsyncBaseTransport, client: str, *, limit: int, wait: timedelta) -> None:
        super().__init__(inner)
        self._client = client
        self._wait_seconds = wait.total_seconds()
        self._slots = asyncio.Semaphore(limit)

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request as soon as there is room."""
        await self._take_slot()
        try:
            response = await self._inner.handle_async_request(request)
            response.stream = EndingStream(body_of(response), lambda _: self._slots.release())
        except BaseException:
            self._slots.release()
            raise
        return response

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # at once, and without the cost of a timer
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            raise CallRefusedError(
                self._client, "too many calls are under way", retry_after_seconds=1
            ) from error

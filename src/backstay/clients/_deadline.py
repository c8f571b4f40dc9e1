"""The limit for a whole call: connection, attempts, redirects and the body of the answer together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

from httpx2 import AsyncBaseTransport, AsyncByteStream, Request, Response

from backstay.clients._errors import CallTimeoutError
from backstay.clients._transports import EndingStream, Layer, body_of
from backstay.deadline import deadline, seconds_left

__all__ = ["DeadlineLayer"]

_ENDS_AT = "backstay.ends_at"


class DeadlineLayer(Layer):
    """Give a call `timeout`, or less when the deadline of the request that is being served ends earlier."""

    def __init__(self, inner: AsyncBaseTransport, client: str, *, timeout: timedelta) -> None:
        super().__init__(inner)
        self._client = client
        self._timeout_seconds = timeout.total_seconds()

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request, and give up when the time is over."""
        clock = self._start_clock(request)
        with _forgotten_on_error(request):
            async with clock.limit():
                with deadline(timedelta(seconds=clock.seconds_left)):
                    response = await self._inner.handle_async_request(request)
        if response.has_redirect_location:
            response.stream = _TimedStream(body_of(response), clock)
        else:
            forget = lambda _: request.extensions.pop(_ENDS_AT, None)  # noqa: E731  the whole of it
            response.stream = EndingStream(_TimedStream(body_of(response), clock), forget)
        return response

    def _start_clock(self, request: Request) -> _Clock:
        # A redirect is a request of its own with the same extensions: its time is what is left.
        most = self._timeout_seconds
        latest = time.monotonic() + (seconds_left(at_most=most) or 0.0)
        ends_at = min(request.extensions.setdefault(_ENDS_AT, latest), latest)
        return _Clock(self._client, ends_at)


@contextmanager
def _forgotten_on_error(request: Request) -> Iterator[None]:
    try:
        yield
    except BaseException:
        request.extensions.pop(_ENDS_AT, None)  # the same request may be sent again
        raise


class _Clock:
    def __init__(self, client: str, ends_at: float) -> None:
        self._client = client
        self._ends_at = ends_at

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._ends_at - time.monotonic())

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        if self.seconds_left == 0.0:
            raise CallTimeoutError(self._client, "there is no time left for it")
        try:
            async with asyncio.timeout(self.seconds_left):
                yield
        except TimeoutError as error:
            raise CallTimeoutError(self._client, "the call took too long") from error


class _TimedStream(AsyncByteStream):
    def __init__(self, stream: AsyncByteStream, clock: _Clock) -> None:
        self._stream = stream
        self._clock = clock

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        while True:
            try:
                async with self._clock.limit():
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()

"""One log line and one event for each call, when it is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

from httpx2 import AsyncBaseTransport, AsyncByteStream, Request, Response

from backstay import events
from backstay.clients._errors import typed_errors
from backstay.clients._retries import ATTEMPTS
from backstay.clients._transports import EndingStream, Layer, body_of
from backstay.errors import UpstreamError
from backstay.redaction import redact_url

__all__ = ["CLIENT_NAME", "ObservationLayer"]

CLIENT_NAME: Final = "backstay.client"
"""The extension of an answer that holds the name of the client."""

_logger = logging.getLogger("backstay.clients")


class ObservationLayer(Layer):
    """Tell of each call, and let no error out that does not know its answer."""

    def __init__(self, inner: AsyncBaseTransport, client: str) -> None:
        super().__init__(inner)
        self._client = client

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request, and tell when its answer was read or it failed."""
        call = _Call(self._client, request)
        try:
            with typed_errors(self._client):
                response = await self._inner.handle_async_request(request)
        except BaseException as error:
            call.end(None, error)
            raise
        response.extensions[CLIENT_NAME] = self._client
        body = _TypedStream(body_of(response), self._client)
        response.stream = EndingStream(body, lambda error: call.end(response.status_code, error))
        return response


class _TypedStream(AsyncByteStream):
    def __init__(self, stream: AsyncByteStream, client: str) -> None:
        self._stream = stream
        self._client = client

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with typed_errors(self._client):
            async for chunk in self._stream:
                yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Call:
    def __init__(self, client: str, request: Request) -> None:
        self._client = client
        self._request = request
        self._started = time.monotonic()
        request.extensions[ATTEMPTS] = 0

    def end(self, status: int | None, error: BaseException | None) -> None:
        event = events.UpstreamCalled(
            client=self._client,
            method=self._request.method,
            host=self._request.url.host,
            status=status,
            error=None if error is None else _name(error),
            attempts=self._request.extensions[ATTEMPTS],
            seconds=time.monotonic() - self._started,
        )
        self._log(event)
        if events.is_watched(events.UpstreamCalled):
            events.emit(event)

    def _log(self, event: events.UpstreamCalled) -> None:
        level = logging.WARNING if event.error not in (None, "cancelled") else logging.INFO
        if not _logger.isEnabledFor(level):
            return
        milliseconds = round(event.seconds * 1000)
        outcome = event.error or f"answered {event.status}"
        facts = {
            "client": self._client,
            "method": event.method,
            # The query may hold anything, and so may a user and a fragment.
            "url": redact_url(str(self._request.url.copy_with(query=None, fragment=None, userinfo=b""))),
            "status": event.status,
            "attempts": event.attempts,
            "milliseconds": milliseconds,
        }
        _logger.log(level, "Called %s: %s after %d ms.", self._client, outcome, milliseconds, extra=facts)


def _name(error: BaseException) -> str:
    """Return what went wrong as a word of a small fixed set."""
    if isinstance(error, UpstreamError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"

"""What the transports have in common: each adds one concern to the one inside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import cast

from httpx2 import AsyncBaseTransport, AsyncByteStream, Response

__all__ = ["EndingStream", "Layer", "body_of"]


class Layer(AsyncBaseTransport):
    """A transport around another one, which it closes."""

    def __init__(self, inner: AsyncBaseTransport) -> None:
        self._inner = inner

    async def aclose(self) -> None:
        """Close what is inside."""
        await self._inner.aclose()


def body_of(response: Response) -> AsyncByteStream:
    """Return the body of an answer that was not read yet."""
    return cast("AsyncByteStream", response.stream)  # HTTPX gives a client no other


class EndingStream(AsyncByteStream):
    """A body that tells when nobody reads it any more.

    Args:
        stream: The body.
        at_end: Called once, with what went wrong while it was read; None if nothing did.
    """

    def __init__(self, stream: AsyncByteStream, at_end: Callable[[BaseException | None], None]) -> None:
        self._stream = stream
        self._at_end = at_end
        self._error: BaseException | None = None
        self._has_ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except GeneratorExit:
            raise  # the reader has enough
        except BaseException as error:
            self._error = error
            raise

    async def aclose(self) -> None:
        """Close the body, and tell."""
        try:
            await self._stream.aclose()
        finally:
            if not self._has_ended:
                self._has_ended = True
                self._at_end(self._error)

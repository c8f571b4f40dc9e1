"""Trying again: only what is safe, seldom enough to burden nobody, and never past the deadline."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Final

from httpx2 import AsyncBaseTransport, ByteStream, Request, Response

from backstay.clients._errors import FAILURES
from backstay.clients._transports import Layer
from backstay.deadline import seconds_left

__all__ = ["ATTEMPTS", "RetryBudget", "RetryLayer"]

ATTEMPTS: Final = "backstay.attempts"
"""The extension of a request that holds how often it was sent."""

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_STATUSES: Final = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 2.0

Sleep = Callable[[float], Awaitable[object]]


class RetryBudget:
    """Allow one retry for each ten calls: a service that is down gets 1.1 times its load at the most.

    Unused retries are kept for later, up to ten. The first call may be tried again at once, on credit.
    """

    def __init__(self) -> None:
        self._tenths = 9

    def add_call(self) -> None:
        """Count a call."""
        self._tenths = min(self._tenths + 1, 100)

    def take(self) -> bool:
        """Return whether there may be a retry now, and count it."""
        if self._tenths < 10:
            return False
        self._tenths -= 10
        return True


class RetryLayer(Layer):
    """Send a request again that failed and may be repeated.

    Args:
        inner: What sends.
        retries: How often at the most.
        sleep: Waits for so many seconds.
    """

    def __init__(self, inner: AsyncBaseTransport, *, retries: int, sleep: Sleep = asyncio.sleep) -> None:
        super().__init__(inner)
        self._retries = retries
        self._sleep = sleep
        self._budget = RetryBudget()

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request once, and then as often as it makes sense; return the last answer, good or bad."""
        self._budget.add_call()
        most = self._retries if _is_repeatable(request) else 0
        for attempt in range(most):
            pause_seconds = _random_pause(attempt)
            try:
                response = await self._send(request, attempt)
            except FAILURES:
                if not self._may_wait(pause_seconds):
                    raise
            else:
                pause_seconds = max(pause_seconds, _read_retry_after(response))
                if response.status_code not in _STATUSES or not self._may_wait(pause_seconds):
                    return response
                await response.aclose()
            await self._sleep(pause_seconds)
        return await self._send(request, most)

    async def _send(self, request: Request, attempt: int) -> Response:
        request.extensions[ATTEMPTS] = attempt + 1
        return await self._inner.handle_async_request(request)

    def _may_wait(self, seconds: float) -> bool:
        """Return whether there is time for a pause and something after it, and the budget allows for it."""
        left = seconds_left()
        return (left is None or seconds < left) and self._budget.take()


def _is_repeatable(request: Request) -> bool:
    is_safe = request.method in _IDEMPOTENT or "Idempotency-Key" in request.headers
    return is_safe and isinstance(request.stream, ByteStream)  # a body that is made as it is sent is gone


def _random_pause(attempt: int) -> float:
    # Full jitter: those who failed together do not come again together.
    most = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt)
    return random.uniform(0, most)  # noqa: S311  no secret


def _read_retry_after(response: Response) -> float:
    """Return for how many seconds the other side asks to be left alone; 0 when it does not say."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0

"""Not asking a host that does not answer: a breaker for each."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from httpx2 import AsyncBaseTransport, Request, Response

from backstay.breaker import Breaker
from backstay.clients._errors import FAILURES, BadAnswerError, CallRefusedError
from backstay.clients._transports import Layer

__all__ = ["BreakerLayer"]

_OVERLOADED: Final = frozenset({502, 503, 504})
_MOST_HOSTS: Final = 1000
# A timer may fire this much before its time.
_SLACK_SECONDS: Final = 0.02


class BreakerLayer(Layer):
    """Refuse a call at once while its host has failed too often.

    A host fails when there is no answer, or one of 502, 503 and 504; a 500 is an answer. A call that somebody
    gave up before `patience` was over says nothing about it.
    """

    def __init__(
        self,
        inner: AsyncBaseTransport,
        client: str,
        *,
        patience: timedelta,
        make_breaker: Callable[[], Breaker] = Breaker,
    ) -> None:
        super().__init__(inner)
        self._client = client
        self._patience_seconds = patience.total_seconds() - _SLACK_SECONDS
        self._make_breaker = make_breaker
        self._breakers: OrderedDict[tuple[str, str, int | None], Breaker] = OrderedDict()

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request, or refuse it."""
        breaker = self._find_breaker(request)
        if not breaker.admits():
            raise CallRefusedError(
                self._client, "its host failed too often and is not asked for now", retry_after_seconds=1
            )
        started = time.monotonic()
        try:
            response = await self._inner.handle_async_request(request)
        except FAILURES:
            breaker.fail()
            raise
        except BadAnswerError:
            breaker.succeed()
            raise
        except asyncio.CancelledError:
            waited = time.monotonic() - started
            (breaker.fail if waited >= self._patience_seconds else breaker.abandon)()
            raise
        except BaseException:
            breaker.abandon()
            raise
        (breaker.fail if response.status_code in _OVERLOADED else breaker.succeed)()
        return response

    def _find_breaker(self, request: Request) -> Breaker:
        key = (request.url.scheme, request.url.host, request.url.port)
        breaker = self._breakers.setdefault(key, self._make_breaker())
        self._breakers.move_to_end(key)
        if len(self._breakers) > _MOST_HOSTS:
            self._breakers.popitem(last=False)
        return breaker

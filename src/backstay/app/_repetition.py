"""When a request that failed runs again, as nobody has heard of its failure yet.

There are two reasons. It lost against another transaction, and its route is marked with `repeatable`. Or the
connection to the database was lost, and it only reads or is marked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final, Protocol

from starlette.types import Scope

from backstay import events
from backstay.app._request_call import RequestCall
from backstay.app.installation import Installation
from backstay.app.unit_of_work import UnitOfWork
from backstay.db import is_lost, is_repeatable
from backstay.deadline import seconds_left
from backstay.errors import OutcomeUnknownError

__all__ = ["Repetition"]

_FIRST_PAUSE_SECONDS: Final = 0.005


class _Replayed(Protocol):
    """A body that can be given to the app again."""

    can_replay: bool

    def replay(self) -> None: ...


class _Request(Protocol):
    """What is asked of a request."""

    unit: UnitOfWork | None
    call: RequestCall
    scope: Scope

    @property
    def inbox(self) -> _Replayed: ...
    @property
    def route(self) -> str | None: ...
    @property
    def has_answered(self) -> bool: ...


class Repetition:
    """The further attempts at a request.

    Args:
        exchange: The request.
        installation: What requests of the same app take turns by, and know about the database.
        attempt: Runs it once more; returns what went wrong.
    """

    def __init__(
        self,
        exchange: _Request,
        installation: Installation,
        attempt: Callable[[], Awaitable[Exception | None]],
    ) -> None:
        self._exchange = exchange
        self._installation = installation
        self._attempt = attempt

    async def run(self, error: Exception) -> Exception | None:
        """Run the request as often as it makes sense after a first error; return the last one, if any."""
        last = await self._outlive(error)
        if last is None or not self._may_repeat(last):
            return last
        # Those who lost take turns: one at a time, they meet first attempts only, and those run out.
        async with self._installation.turn_to_repeat(self._exchange.route):
            return await self._repeat(last)

    async def _repeat(self, error: Exception | None) -> Exception | None:
        for number in range(1, self._installation.repeat_attempts + 1):
            if error is None or not self._may_repeat(error):
                break
            # Full jitter: those who met once are spread out, and the spread doubles each time.
            await self._pause(number, seconds=random.uniform(0, _FIRST_PAUSE_SECONDS * 2**number))  # noqa: S311
            error = await self._outlive(await self._attempt())
        return error

    async def _outlive(self, error: Exception | None) -> Exception | None:
        for number in count(1):
            if error is None or not is_lost(error):
                break
            self._installation.outage.note()
            if not self._may_outlive(error):
                break
            await self._pause(number, seconds=self._installation.outage.choose_pause(number))
            error = await self._attempt()
            if error is None or not is_lost(error):
                self._installation.outage.end()
        return error

    def _may_repeat(self, error: Exception) -> bool:
        unit = self._exchange.unit
        return unit is not None and unit.is_repeatable and is_repeatable(error) and self._is_possible

    def _may_outlive(self, error: Exception) -> bool:
        unit = self._exchange.unit
        if unit is None or isinstance(error, OutcomeUnknownError) or self._exchange.call.has_committed:
            return False
        is_read = self._exchange.scope["method"] in {"GET", "HEAD"} and unit.has_only_read
        return (is_read or unit.is_repeatable) and self._is_possible and self._installation.outage.is_short

    @property
    def _is_possible(self) -> bool:
        has_time = seconds_left() != 0.0
        return has_time and not self._exchange.has_answered and self._exchange.inbox.can_replay

    async def _pause(self, number: int, *, seconds: float) -> None:
        if events.is_watched(events.RequestRepeated):
            events.emit(events.RequestRepeated(route=self._exchange.route or "", attempt=number))
        self._exchange.inbox.replay()
        await asyncio.sleep(seconds)

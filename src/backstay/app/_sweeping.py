"""One task that looks after all requests: watching each from its start would cost every short one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final

from backstay.app._in_flight import InFlight
from backstay.app._request_call import SWEEP_SECONDS

__all__ = ["sweep"]

_SHORTEST_PAUSE_SECONDS: Final = 0.005


async def sweep(in_flight: Collection[InFlight]) -> None:
    """Notice whose caller has left and whose time is over, until cancelled."""
    pause = SWEEP_SECONDS
    while True:
        await asyncio.sleep(pause)
        now = time.monotonic()
        next_look = now + SWEEP_SECONDS
        for exchange in tuple(in_flight):
            exchange.watch_for_leaving()
            if exchange.call.due_at > now:
                next_look = min(next_look, exchange.call.due_at)
            else:
                exchange.call.cancel_when_over()
        pause = max(_SHORTEST_PAUSE_SECONDS, next_look - time.monotonic())

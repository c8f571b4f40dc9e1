"""The request that the running code serves."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Protocol

from starlette.types import Scope

from backstay.app._limit_record import LimitRecord
from backstay.app._request_call import RequestCall
from backstay.security import Principal

__all__ = ["InFlight", "current_exchange"]


class InFlight(Protocol):
    """A request that is being served."""

    request_id: str
    trace_id: str | None
    call: RequestCall
    scope: Scope
    task: asyncio.Task[object] | None
    principal: Principal | None

    @property
    def route(self) -> str | None:
        """The template of its route, once it is known."""
        ...

    @property
    def routed(self) -> Scope:
        """The scope that the router has written into."""
        ...

    @property
    def limits(self) -> LimitRecord:
        """What rate limits said to it."""
        ...

    @property
    def is_event_stream(self) -> bool:
        """Whether its answer has begun, and is a stream of events that ends when somebody ends it."""
        ...

    def watch_for_leaving(self) -> None:
        """Notice when the caller goes away."""
        ...


current_exchange: ContextVar[InFlight | None] = ContextVar("backstay.exchange", default=None)

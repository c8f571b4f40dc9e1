"""What conditional requests cost: nothing where they are not used, and little where they are.

Run it with `python benchmarks/conditional_requests.py`; it exits with 1 when a bound is missed. Requests go
straight into the ASGI app. The contenders take turns, and a ratio is the median of those of the rounds, so
that it holds on a shared machine too.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from statistics import median
from time import perf_counter_ns
from typing import Annotated, Any
from unittest.mock import patch

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import SecretStr
from starlette.types import Message, Scope, Send

from backstay import ETagDep, Schema, create_app, public
from backstay.app import middleware
from backstay.app._exchange import Exchange, ResponseStoppedError
from backstay.settings import DatabaseSettings, LoggingSettings, Settings

ROUNDS = 60
CALLS = 100
UNUSED_BOUND = 1.03
TAGGED_BOUND = 1.5

Contender = Callable[[], Coroutine[Any, Any, None]]


class ProductRead(Schema):
    """A body of a usual size."""

    product_id: int = 7
    name: str = "House blend, 250 g"
    description: str = "Chocolate and hazelnut, roasted on Tuesdays. " * 8
    version: int = 3


PRODUCT = ProductRead()
router = APIRouter()


@router.get("/plain")
async def read_plainly() -> ProductRead:
    """Answer without a condition."""
    return PRODUCT


async def do_nothing(request: Request) -> None:
    """Do what every dependency does."""


@router.get("/dependency")
async def read_with_dependency(nothing: Annotated[None, Depends(do_nothing)]) -> ProductRead:
    """Answer with a dependency that does nothing."""
    return PRODUCT


@router.get("/tagged")
async def read_tagged(etag: ETagDep) -> ProductRead:
    """Answer the same with an ETag."""
    return etag.tag(PRODUCT)


class ExchangeWithoutConditions(Exchange):
    """What an exchange would be if there were no conditional requests."""

    __slots__ = ()

    async def _end_unit_then_send(self, message: Message, send: Send) -> None:
        if self._stopped_by is not None:
            raise ResponseStoppedError
        if message["type"] == "http.response.start":
            if self.unit is not None:
                await self.unit.end(status=message["status"])
            self._is_started = True
        await send(message)


class ExchangeAsShipped(Exchange):
    """A subclass too, so that the two differ in nothing else."""

    __slots__ = ()

    _end_unit_then_send = Exchange._end_unit_then_send  # noqa: SLF001


async def measure() -> dict[str, list[float]]:
    """Return the microseconds per request of each contender, round by round."""
    settings = Settings(
        environment="test",
        database=DatabaseSettings(url=SecretStr("sqlite://")),
        logging=LoggingSettings(access=False),
    )
    app = create_app(settings, routers=[router], dependencies=[public])
    async with app.router.lifespan_context(app):
        contenders = await make_contenders(app)
        rounds: dict[str, list[float]] = {name: [] for name in contenders}
        gc.disable()
        for _ in range(ROUNDS):
            for name, contender in contenders.items():
                gc.collect()
                await contender()  # the first ones after a collection are slower
                rounds[name].append(await _time(contender))
        gc.enable()
    return rounds


async def _time(contender: Contender) -> float:
    began_ns = perf_counter_ns()
    await contender()
    return (perf_counter_ns() - began_ns) / CALLS / 1000


async def make_contenders(app: FastAPI) -> dict[str, Contender]:
    """Return what is compared, each sending `CALLS` requests."""
    tag = dict(await call(app, "/tagged"))[b"etag"]

    def sending(
        path: str, *headers: tuple[bytes, bytes], exchange: type[Exchange] = ExchangeAsShipped
    ) -> Contender:
        async def send_all() -> None:
            with patch.object(middleware, "Exchange", exchange):
                for _ in range(CALLS):
                    await call(app, path, *headers)

        return send_all

    return {
        "without": sending("/plain", exchange=ExchangeWithoutConditions),
        "unused": sending("/plain"),
        "dependency": sending("/dependency"),
        "tagged": sending("/tagged"),
        "known": sending("/tagged", (b"if-none-match", tag)),
    }


async def call(app: FastAPI, path: str, *headers: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Send one GET and return the headers of its answer."""
    answered: list[tuple[bytes, bytes]] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        answered.extend(message.get("headers", ()))

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "state": {},
    }
    await app(scope, receive, send)
    return answered


def ratio(costs_us: dict[str, list[float]], one: str, other: str) -> float:
    """Return how many times as long one takes as the other."""
    return median(left / right for left, right in zip(costs_us[one], costs_us[other], strict=True))


def main() -> int:
    """Measure, print the sentence and return the exit code."""
    costs_us = asyncio.run(measure())
    unused = ratio(costs_us, "unused", "without")
    tagged, known = (ratio(costs_us, name, "dependency") for name in ("tagged", "known"))
    print(
        f"A route without conditions takes {unused:.3f} times as long as in a house without them "
        f"({min(costs_us['without']):.1f} us; bound {UNUSED_BOUND:g})."
    )
    print(
        f"With an ETag it takes {tagged:.2f} times as long as with a dependency that does nothing "
        f"({min(costs_us['dependency']):.1f} us), and {known:.2f} times to answer 304 "
        f"(bound {TAGGED_BOUND:g})."
    )
    return 0 if unused < UNUSED_BOUND and max(tagged, known) < TAGGED_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())

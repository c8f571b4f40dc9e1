"""What telemetry costs a request: nothing that can be measured when it is off, under 3 us with metrics on.

Run it with `python benchmarks/telemetry_cost.py`; it exits with 1 when a claim fails. The machine may be
shared: the contenders take turns within each round, each round gives one difference between neighbours, and
the median of the differences counts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, SecretStr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import Message, Receive, Scope, Send

from backstay import Settings, create_app, events
from backstay.app._exchange import Exchange
from backstay.app.middleware import BackstayMiddleware
from backstay.settings import DatabaseSettings, LoggingSettings, TelemetrySettings
from backstay.telemetry import FOLDER_VARIABLE

ROUNDS = 300
CALLS = 60
METRICS_BOUND_US = 3.0
OFF_BOUND_US = 1.0
"""What this machine cannot tell from nothing: about 1 % of a cheap request."""

OFF = TelemetrySettings(metrics=False, traces=False, slow_query=timedelta(0), blocked_loop=timedelta(0))
router = APIRouter()
Ask = Callable[[], Awaitable[None]]


class Thing(BaseModel):
    """What the route returns."""

    id: int
    name: str


@router.get("/things/{thing_id}")
async def read_thing(thing_id: int) -> Thing:
    """Answer like most routes do: with a model, and here without a database."""
    return Thing(id=thing_id, name="oar")


class UnhookedExchange(Exchange):
    """A request as it was before telemetry: without the places at which it would be told."""

    __slots__ = ()

    def _mask_span(self) -> None:
        pass

    def _count(self) -> None:
        pass

    async def send(self, message: Message) -> None:
        """Pass a message on, as `Exchange` does."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers[self._installation.request_id_header] = self.request_id
            for name, value in self._installation.response_headers:
                headers.setdefault(name, value)
        await self._send_outside(message)


class UnhookedMiddleware(BackstayMiddleware):
    """Serves requests as `UnhookedExchange`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        await UnhookedExchange(self._installation, scope, receive, send).run(self._inner)


def main() -> int:
    """Measure, print the sentences and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--together", action="store_true", help="measure what counting with workers costs")
    if parser.parse_args().together:
        costs_us = asyncio.run(measure({"off": OFF, "metrics": with_metrics()}))
        print(f"{costs_us['metrics'] - costs_us['off']:.2f}")
        return 0
    costs_us = asyncio.run(
        measure({"unhooked": OFF, "off": OFF, "metrics": with_metrics(), "traces": with_traces()})
    )
    off, metrics = costs_us["off"] - costs_us["unhooked"], costs_us["metrics"] - costs_us["off"]
    print(
        f"Telemetry that is off costs a request {off:+.2f} us (bound {OFF_BOUND_US:g}) of "
        f"{costs_us['unhooked']:.1f}; metrics cost it {metrics:.2f} us (bound {METRICS_BOUND_US:g})."
    )
    print(
        f"With several workers metrics cost it {measure_together():.2f} us, and each statement "
        f"{measure_statement():.2f} us; traces cost it {costs_us['traces'] - costs_us['off']:.0f} us, "
        "the sending aside."
    )
    return 0 if off < OFF_BOUND_US and metrics < METRICS_BOUND_US else 1


def with_metrics() -> TelemetrySettings:
    """Return settings with metrics and nothing else."""
    return OFF.model_copy(update={"metrics": True})


def with_traces() -> TelemetrySettings:
    """Return settings with spans that are made, ended and not sent."""
    os.environ["OTEL_TRACES_EXPORTER"] = "none"
    return OFF.model_copy(update={"traces": True})


async def measure(contenders: Mapping[str, TelemetrySettings]) -> dict[str, float]:
    """Return the cost of a request to each contender in microseconds, comparable with each other."""
    async with AsyncExitStack() as stack:
        asks: dict[str, Ask] = {}
        for name, telemetry in contenders.items():
            app = make_app(telemetry, unhooked=name == "unhooked")
            await stack.enter_async_context(app.router.lifespan_context(app))
            asks[name] = make_request(app)
        return await take_turns(asks)


async def take_turns(asks: Mapping[str, Ask]) -> dict[str, float]:
    """Return the median cost of the first contender, plus the median of each one's distance from it."""
    rounds: list[dict[str, float]] = []
    gc.disable()
    for number in range(ROUNDS):
        names = list(asks) if number % 2 else list(asks)[::-1]
        rounds.append({name: await time_calls_us(asks[name]) for name in names})
        gc.collect(0)
    gc.enable()
    first = next(iter(asks))
    base = median(one[first] for one in rounds)
    return {name: base + median(one[name] - one[first] for one in rounds) for name in asks}


async def time_calls_us(ask: Ask) -> float:
    """Return what one request costs."""
    began = perf_counter()
    for _ in range(CALLS):
        await ask()
    return (perf_counter() - began) / CALLS * 1e6


def make_app(telemetry: TelemetrySettings, *, unhooked: bool) -> FastAPI:
    """Return an app whose only difference to the others is its telemetry."""
    settings = Settings(
        environment="test",
        database=DatabaseSettings(url=SecretStr("sqlite://")),
        logging=LoggingSettings(access=False),
        telemetry=telemetry,
    )
    app = create_app(settings, routers=[router])
    if unhooked:
        app.user_middleware = [Middleware(UnhookedMiddleware, installation=app.state.backstay)]
    return app


def make_request(app: FastAPI) -> Ask:
    """Return a function that sends one request straight into an app."""
    body = {"type": "http.request", "body": b"", "more_body": False}

    async def receive() -> Any:
        return body

    async def send(message: Any) -> None:
        pass

    async def ask() -> None:
        await app(make_scope(), receive, send)

    return ask


def make_scope() -> dict[str, Any]:
    """Return what a server would say about the request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/things/7",
        "raw_path": b"/things/7",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"shop.example"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


def measure_together() -> float:
    """Return what metrics cost where workers share a folder; that is decided once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--together"],
            env={**os.environ, FOLDER_VARIABLE: folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return float(done.stdout)


def measure_statement() -> float:
    """Return what it costs to tell the metrics of one statement, in microseconds."""
    from backstay.telemetry.metrics import Metrics

    metrics = Metrics(version="0")
    calls = 20_000
    with events.subscribed(metrics.hear, *metrics.kinds):
        began = perf_counter()
        for _ in range(calls):
            if events.is_watched(events.QueryExecuted):
                started = perf_counter()
                events.emit(events.QueryExecuted(statement="SELECT 1", seconds=perf_counter() - started))
        return (perf_counter() - began) / calls * 1e6


if __name__ == "__main__":
    sys.exit(main())

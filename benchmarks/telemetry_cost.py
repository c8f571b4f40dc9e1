"""What telemetry costs a request: nothing that can be measured when it is off, under 3 us with metrics on.

Run it with `python benchmarks/telemetry_cost.py`; it exits with 1 when a claim fails. Each contender is a
process of its own: in a shared one, the interpreter's caches would know one of two classes better than the
other. They take turns, batch by batch, since the machine may be shared; each round gives one difference
between neighbours, and the median of the differences counts. That is done with several generations of
processes, because where a process happens to lie in memory costs as much as what is measured.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import random
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any, TextIO, cast

from fastapi import APIRouter
from pydantic import BaseModel, SecretStr
from starlette.types import ASGIApp

from backstay import Settings, create_app, events, public
from backstay.app._exchange import Exchange
from backstay.settings import DatabaseSettings, LoggingSettings, TelemetrySettings
from backstay.telemetry import FOLDER_VARIABLE

GENERATIONS = 5
ROUNDS = 60
CALLS = 60
METRICS_BOUND_US = 3.0
OFF_BOUND_US = 1.0
"""What this machine cannot tell from nothing: about 1 % of a cheap request."""

OFF = TelemetrySettings(metrics=False, traces=False, slow_query=timedelta(0), blocked_loop=timedelta(0))
CONTENDERS = {
    "unhooked": OFF,
    "off": OFF,
    "metrics": OFF.model_copy(update={"metrics": True}),
    "together": OFF.model_copy(update={"metrics": True}),
    "traces": OFF.model_copy(update={"traces": True}),
}
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


def main() -> int:
    """Measure, print the sentences and return the exit code."""
    generations = [measure() for _ in range(GENERATIONS)]
    costs_us = {name: median(one[name] for one in generations) for name in CONTENDERS}
    off, metrics = costs_us["off"] - costs_us["unhooked"], costs_us["metrics"] - costs_us["off"]
    print(
        f"Telemetry that is off costs a request {off:+.2f} us (bound {OFF_BOUND_US:g}) of "
        f"{costs_us['unhooked']:.1f}; metrics cost it {metrics:.2f} us (bound {METRICS_BOUND_US:g})."
    )
    print(
        f"With several workers metrics cost it {costs_us['together'] - costs_us['off']:.2f} us, and each "
        f"statement {measure_statement():.2f} us in one process; traces cost it "
        f"{costs_us['traces'] - costs_us['off']:.0f} us, the sending aside."
    )
    return 0 if off < OFF_BOUND_US and metrics < METRICS_BOUND_US else 1


def measure() -> dict[str, float]:
    """Return the cost of a request to each contender in microseconds, comparable with each other."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        processes = {name: stack.enter_context(start(name, folder)) for name in CONTENDERS}
        rounds = []
        names = list(CONTENDERS)
        for _ in range(ROUNDS):
            random.shuffle(names)
            rounds.append({name: ask_for_batch(processes[name]) for name in names})
    base = median(one["off"] for one in rounds)
    return {name: base + median(one[name] - one["off"] for one in rounds) for name in CONTENDERS}


def start(name: str, folder: str) -> subprocess.Popen[str]:
    """Return a process that answers each line with what a request cost it, and ends with its input."""
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    if name == "together":
        environment[FOLDER_VARIABLE] = folder
    return subprocess.Popen(
        [sys.executable, __file__, name],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask_for_batch(process: subprocess.Popen[str]) -> float:
    """Return what a request costs a contender, in microseconds."""
    given, answered = cast("TextIO", process.stdin), cast("TextIO", process.stdout)
    print(file=given, flush=True)
    return float(answered.readline())


# In the process of a contender.


async def contend(name: str) -> None:
    """Answer each line of the input with the cost of a request."""
    if name == "unhooked":
        remove_hooks()
    settings = Settings(
        environment="test",
        database=DatabaseSettings(url=SecretStr("sqlite://")),
        logging=LoggingSettings(access=False),
        telemetry=CONTENDERS[name],
    )
    app = create_app(settings, routers=[router], dependencies=[public])
    async with app.router.lifespan_context(app):
        ask = make_request(app)
        gc.disable()
        while await asyncio.to_thread(sys.stdin.readline):
            await time_calls_us(ask)  # the processor's caches are still those of the one before
            print(await time_calls_us(ask), flush=True)
            gc.collect(0)


def remove_hooks() -> None:
    """Take the places out of a request at which telemetry would be told, and nothing else."""
    for name, hook in (("run", "self._mask_span()"), ("send", "self._count()"), ("_finish", "self._count()")):
        method = getattr(Exchange, name)
        lines = textwrap.dedent(inspect.getsource(method)).splitlines()
        kept = [line for line in lines if not line.strip().startswith(hook)]
        if len(kept) != len(lines) - 1:
            raise LookupError(f"Exchange.{name} calls {hook} no longer, or more than once.")
        made: dict[str, Any] = {}
        exec("\n".join(kept), method.__globals__, made)  # noqa: S102  our own source
        setattr(Exchange, name, made[name])


async def time_calls_us(ask: Ask) -> float:
    """Return what one request costs."""
    began = perf_counter()
    for _ in range(CALLS):
        await ask()
    return (perf_counter() - began) / CALLS * 1e6


def make_request(app: ASGIApp) -> Ask:
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


def measure_statement() -> float:
    """Return what it costs to tell the metrics of one statement, in microseconds."""
    from backstay.telemetry.metrics import Metrics

    metrics = Metrics(version="0")
    with events.subscribed(metrics.hear, *metrics.kinds):
        return min(tell_statements_us() for _ in range(20))


def tell_statements_us() -> float:
    """Return what it costs to tell of a statement, as the database does it."""
    began = perf_counter()
    for _ in range(1_000):
        if events.is_watched(events.QueryExecuted):
            started = perf_counter()
            events.emit(events.QueryExecuted(statement="SELECT 1", seconds=perf_counter() - started))
    return (perf_counter() - began) / 1_000 * 1e6


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(contend(sys.argv[1]))
    else:
        sys.exit(main())

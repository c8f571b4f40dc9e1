"""What the bounds on a connection cost an ordinary request on it: nothing that can be measured.

Run it with `python benchmarks/connection_bounds.py`; it exits with 1 when the bound is missed. Uvicorn's own
protocol and ours serve the same app in one event loop, each on a connection without a network: requests go
in as bytes, answers come out as bytes. They take turns in short batches, and the fastest tenth of each
counts, in which nobody else had the processor: so the ratio holds on a shared machine too.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, cast

import uvicorn
import uvloop
from fastapi import APIRouter
from pydantic import BaseModel, SecretStr
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from backstay import Settings, create_app, public
from backstay.server import HttpProtocol
from backstay.settings import DatabaseSettings, LoggingSettings

ROUNDS = 400
CALLS = 20
BOUND = 1.05
"""What a busy machine cannot tell from nothing."""

REQUEST = (
    b"GET /things/7?detail=full HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: benchmark/1.0\r\n"
    b"Accept: application/json\r\nAccept-Encoding: gzip, br\r\nAuthorization: Bearer " + b"x" * 300 + b"\r\n"
    b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-ID: 7f1d2c\r\n"
    b"Connection: keep-alive\r\n\r\n"
)
router = APIRouter(dependencies=[public])


class Thing(BaseModel):
    """What the route returns."""

    id: int
    name: str


@router.get("/things/{thing_id}")
async def read_thing(thing_id: int) -> Thing:
    """Answer as most routes do: with a model, and here without a database."""
    return Thing(id=thing_id, name="oar")


class Pipe(asyncio.Transport):
    """A transport whose other side is this benchmark."""

    def __init__(self) -> None:
        super().__init__()
        self.is_answered = asyncio.Event()

    def write(self, data: object) -> None:
        """Note that an answer's body came; it is written by itself."""
        if not cast("bytes", data).startswith(b"HTTP"):
            self.is_answered.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Tell nothing."""
        return default

    def is_closing(self) -> bool:
        """Stay open."""
        return False

    def get_write_buffer_size(self) -> int:
        """Keep nothing."""
        return 0

    def pause_reading(self) -> None:
        """Go on."""

    def resume_reading(self) -> None:
        """Go on."""


async def measure() -> tuple[float, float, float]:
    """Return the microseconds of a request to each protocol, and the ratio of ours to Uvicorn's."""
    settings = Settings(
        environment="test",
        database=DatabaseSettings(url=SecretStr("sqlite://")),
        logging=LoggingSettings(access=False),
    )
    app = create_app(settings, routers=[router], dependencies=[public])
    async with app.router.lifespan_context(app):
        connections = [connect(protocol, app) for protocol in (HttpToolsProtocol, HttpProtocol)]
        rounds = []
        for number in range(ROUNDS):
            order = connections if number % 2 else connections[::-1]
            costs = {id(connection): await time_calls_us(*connection) for connection in order}
            rounds.append([costs[id(connection)] for connection in connections])
            gc.collect(0)
    theirs, ours = (sorted(column)[ROUNDS // 20] for column in zip(*rounds, strict=True))
    return theirs, ours, ours / theirs


def connect(kind: type[HttpToolsProtocol], app: Any) -> tuple[Callable[[bytes], None], Pipe]:
    """Return the way into a new connection, and the way out."""
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
    protocol, pipe = kind(config, ServerState(), {}), Pipe()
    protocol.connection_made(pipe)
    return protocol.data_received, pipe


async def time_calls_us(send: Callable[[bytes], None], pipe: Pipe) -> float:
    """Return what one request costs."""
    await ask(send, pipe)
    began = perf_counter_ns()
    for _ in range(CALLS):
        await ask(send, pipe)
    return (perf_counter_ns() - began) / CALLS / 1000


async def ask(send: Callable[[bytes], None], pipe: Pipe) -> None:
    """Send one request and wait for its answer."""
    pipe.is_answered.clear()
    send(REQUEST)
    await pipe.is_answered.wait()


def main() -> int:
    """Measure, print the sentence and return the exit code."""
    gc.disable()
    theirs, ours, ratio = uvloop.run(measure())
    print(
        f"With bounds on its connection a request takes {ours:.1f} us, without them {theirs:.1f} us: "
        f"{ratio:.3f} times as long (bound {BOUND:g})."
    )
    return 0 if ratio < BOUND else 1


if __name__ == "__main__":
    sys.exit(main())

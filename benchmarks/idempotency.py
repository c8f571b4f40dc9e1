"""What an idempotency key costs, beside the same route without one.

Run it with `python benchmarks/idempotency.py --url postgresql://postgres@127.0.0.1/postgres`, or without an
address on a SQLite file; it makes its tables in it and removes them. Requests go straight into the ASGI app.
The contenders take turns, and a ratio is the median of those of the rounds, so that it holds on a shared
machine too. It exits with 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, FastAPI
from pydantic import SecretStr
from sqlalchemy import MetaData, String
from sqlalchemy.orm import Mapped, mapped_column
from starlette.types import Message, Scope

from backstay import InputSchema, Model, Schema, SessionDep, create_app, idempotent, public
from backstay.db.records import idempotency_table
from backstay.settings import DatabaseSettings, LoggingSettings, Settings

CALLS = 20
KEY_BOUND = 2.0
REPLAY_BOUND = 1.5
BODY = b'{"sku":"TEA-1","note":"' + b"Leave it with the neighbours. " * 10 + b'"}'

Contender = Callable[[], Coroutine[Any, Any, None]]


class Base(Model):
    """The parent of this script's table, apart from those of a service."""

    __abstract__ = True
    metadata = MetaData()


class BenchmarkOrder(Base):
    """A row of a usual size."""

    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str] = mapped_column(String(40))
    note: Mapped[str]


idempotency_table.to_metadata(Base.metadata)


class OrderCreate(InputSchema):
    """What is sent."""

    sku: str
    note: str


class OrderRead(Schema):
    """What is answered."""

    id: int
    sku: str
    note: str


async def create(order: OrderCreate, session: SessionDep) -> OrderRead:
    """Insert one row and answer it."""
    row = BenchmarkOrder(**order.model_dump(by_alias=False))
    session.add(row)
    await session.flush()
    return OrderRead.model_validate(row)


router = APIRouter()
router.post("/unmarked", status_code=201)(create)
router.post("/marked", status_code=201, dependencies=[idempotent()])(create)


async def measure(url: str, *, rounds: int) -> dict[str, list[float]]:
    """Return the microseconds per request of each contender, round by round."""
    settings = Settings(
        environment="test",
        database=DatabaseSettings(url=SecretStr(url)),
        logging=LoggingSettings(access=False),
    )
    app = create_app(settings, routers=[router], dependencies=[public])
    async with app.router.lifespan_context(app):
        engine = app.state.backstay.database.engine
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        try:
            return await _take_turns(app, rounds)
        finally:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)


async def _take_turns(app: FastAPI, rounds: int) -> dict[str, list[float]]:
    contenders = await make_contenders(app)
    costs_us: dict[str, list[float]] = {name: [] for name in contenders}
    gc.disable()
    for _ in range(rounds):
        for name, contender in contenders.items():
            gc.collect()
            began_ns = perf_counter_ns()
            await contender()
            costs_us[name].append((perf_counter_ns() - began_ns) / CALLS / 1000)
    gc.enable()
    return costs_us


async def make_contenders(app: FastAPI) -> dict[str, Contender]:
    """Return what is compared, each sending `CALLS` requests and insisting on their answers."""
    known = uuid4().hex
    await call(app, "/marked", known)

    def sending(path: str, *, key: str | None = None) -> Contender:
        async def send_all() -> None:
            for _ in range(CALLS):
                answer = await call(app, path, key or uuid4().hex)
                if answer != (201, key is not None):
                    raise SystemExit(f"{path} answered {answer}.")

        return send_all

    contenders = {
        "unmarked": sending("/unmarked"),
        "keyed": sending("/marked"),
        "replayed": sending("/marked", key=known),
    }
    for contender in contenders.values():
        await contender()  # the first ones prepare statements
    return contenders


async def call(app: FastAPI, path: str, key: str) -> tuple[int, bool]:
    """Send one POST; return its status and whether it was answered before."""
    answered: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY}

    async def send(message: Message) -> None:
        answered.append(message)

    headers = {"host": "localhost", "content-type": "application/json", "idempotency-key": key}
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "state": {},
    }
    await app(scope, receive, send)
    start = answered[0]
    return start["status"], (b"idempotency-replayed", b"true") in start["headers"]


def ratio(costs_us: dict[str, list[float]], one: str, other: str) -> float:
    """Return how many times as long one takes as the other."""
    return median(left / right for left, right in zip(costs_us[one], costs_us[other], strict=True))


def main() -> int:
    """Measure, print the sentence and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a PostgreSQL database; a SQLite file when omitted")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{Path(folder) / 'benchmark.db'}"
        costs_us = asyncio.run(measure(url, rounds=options.rounds))
    keyed, replayed = (ratio(costs_us, name, "unmarked") for name in ("keyed", "replayed"))
    print(
        f"On {'PostgreSQL' if options.url else 'SQLite'}, a request with a new idempotency key takes "
        f"{keyed:.2f} times as long as on the unmarked route ({median(costs_us['unmarked']):.0f} us; bound "
        f"{KEY_BOUND:g}), and one that is answered again {replayed:.2f} times (bound {REPLAY_BOUND:g})."
    )
    return 0 if keyed < KEY_BOUND and replayed < REPLAY_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())

"""What it costs to read JSON bodies strictly, beside what FastAPI does with them anyway.

Run it with `python benchmarks/json_reading.py`; it exits with 1 when a bound is missed. Requests go straight
into two ASGI apps that differ in the setting only. The two take turns, and a ratio is the median of those of
the rounds, so that it holds on a shared machine too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns

from fastapi import APIRouter, FastAPI
from pydantic import SecretStr
from starlette.types import Message, Scope

from backstay import InputSchema, create_app, public
from backstay.app._strict_json import read_strictly
from backstay.settings import DatabaseSettings, HttpSettings, LoggingSettings, Settings

ROUNDS = 60
READING_BOUND = 3.0
# A large body is little else than JSON.
REQUEST_BOUNDS = {6: 1.25, 560: 1.75}

router = APIRouter()


class Order(InputSchema):
    """One of many in a body."""

    order_id: int
    sku: str
    name: str
    price: str
    quantity: int
    ordered_at: str
    is_paid: bool
    weight: float


@router.post("/orders")
async def take(orders: list[Order]) -> int:
    """Answer as little as possible."""
    return len(orders)


def make_body(orders: int) -> bytes:
    """Return orders as most clients write them, with a space after each comma and colon."""
    rows = [
        {
            "orderId": number,
            "sku": f"TEA-{number}",
            "name": "Earl Grey: the \N{LATIN SMALL LETTER E WITH ACUTE}dition, 100 g",
            "price": "4.50",
            "quantity": 3,
            "orderedAt": "2026-01-31T09:30:00Z",
            "isPaid": True,
            "weight": number * 0.37,
        }
        for number in range(orders)
    ]
    return json.dumps(rows).encode()


def make_app(*, strict: bool) -> FastAPI:
    """Return the service with the setting as given."""
    settings = Settings(
        environment="test",
        database=DatabaseSettings(url=SecretStr("sqlite://")),
        logging=LoggingSettings(access=False),
        http=HttpSettings(strict_json=strict),
    )
    return create_app(settings, routers=[router], dependencies=[public])


def measure_reading(body: bytes, *, calls: int) -> tuple[float, float]:
    """Return the microseconds of a strict reading, and its ratio to the standard library's."""

    def read_plainly() -> None:
        json.loads(body)

    def read_clearly() -> None:
        read_strictly(body, max_depth=32, max_values=10_000)

    pairs = [(_time(read_plainly, calls), _time(read_clearly, calls)) for _ in range(ROUNDS)]
    return median(strict for _, strict in pairs), median(strict / plain for plain, strict in pairs)


def _time(contender: Callable[[], None], calls: int) -> float:
    began_ns = perf_counter_ns()
    for _ in range(calls):
        contender()
    return (perf_counter_ns() - began_ns) / calls / 1000


async def measure_requests(body: bytes, *, calls: int) -> tuple[float, float]:
    """Return the microseconds of a request without strict reading, and the ratio of one with it."""
    plain, strict = make_app(strict=False), make_app(strict=True)
    async with plain.router.lifespan_context(plain), strict.router.lifespan_context(strict):
        pairs = []
        for _ in range(ROUNDS):
            pairs.append((await _time_app(plain, body, calls), await _time_app(strict, body, calls)))
            gc.collect()
    return median(without for without, _ in pairs), median(on / without for without, on in pairs)


async def _time_app(app: FastAPI, body: bytes, calls: int) -> float:
    await _post(app, body)
    began_ns = perf_counter_ns()
    for _ in range(calls):
        await _post(app, body)
    return (perf_counter_ns() - began_ns) / calls / 1000


async def _post(app: FastAPI, body: bytes) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise AssertionError(message["status"])

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/orders",
        "raw_path": b"/orders",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("x", 80),
    }
    await app(scope, receive, send)


def main() -> int:
    """Measure, print the sentences and return the exit code."""
    is_good = True
    for orders, calls in ((6, 50), (560, 2)):
        bound = REQUEST_BOUNDS[orders]
        body = make_body(orders)
        reading_us, reading = measure_reading(body, calls=calls)
        request_us, request = asyncio.run(measure_requests(body, calls=calls))
        print(
            f"A JSON body of {len(body):,} bytes is checked in {reading_us:,.0f} us, {reading:.2f} times "
            f"what the standard library needs to parse it (bound {READING_BOUND:g}); a request with it takes "
            f"{request:.2f} times the {request_us:,.0f} us that it takes without (bound {bound:g})."
        )
        is_good = is_good and reading <= READING_BOUND and request <= bound
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

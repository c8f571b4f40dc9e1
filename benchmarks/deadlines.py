"""What a deadline and its place cost a request: under 2 us, and PostgreSQL no message more than without.

Run it with `python benchmarks/deadlines.py [postgresql://...]`; it exits with 1 when the claim fails. What a
request does for its deadline is timed alone, since a machine that is shared hides 2 us of a whole request;
the fastest of many batches counts. The transaction is timed with and without in turns, and the median of the
differences between neighbours counts. Without a server the second sentence is left out.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from backstay.app.time_limits import TimeLimits
from backstay.db import Database
from backstay.db._admission import Places
from backstay.deadline import Call, enter_call, leave_call, without_deadline
from backstay.settings import DatabaseSettings

BATCHES = 200
REQUESTS = 1000
PAIRS = 500
BOUND_US = 2.0
SERVER = "postgresql://postgres@127.0.0.1:5432/postgres"
NAMES = (b"host", b"accept", b"accept-encoding", b"accept-language", b"cookie", b"referer", b"user-agent")


async def main() -> int:
    """Measure, print the sentences and return the exit code."""
    cost_us = min(time_requests_us() for _ in range(BATCHES))
    print(f"A deadline and a place cost a request {cost_us:.2f} us (bound {BOUND_US:g}).")
    try:
        more_us, transaction_us = await measure_transaction(sys.argv[1] if len(sys.argv) > 1 else SERVER)
    except Exception as error:  # noqa: BLE001  whatever it is, there is no server to measure with
        print(f"PostgreSQL was left out: {type(error).__name__}.")
    else:
        print(f"It costs a transaction on PostgreSQL {more_us:+.1f} us of {transaction_us:.0f}.")
    return 0 if cost_us < BOUND_US else 1


def time_requests_us() -> float:
    """Return what one request does for its deadline when nobody waits long enough to ask for it."""
    limits = TimeLimits(timedelta(seconds=30), header="X-Request-Timeout-Ms", trusted=("127.0.0.1",))
    scope: dict[str, Any] = {"headers": [(name, b"something") for name in NAMES], "client": ("127.0.0.1", 1)}
    places = Places()
    began = perf_counter()
    for _ in range(REQUESTS):
        call = limits.begin(scope)
        token = enter_call(call)
        places.keep()
        places.let_go()
        call.lift_deadline()
        leave_call(token)
    return (perf_counter() - began) / REQUESTS * 1e6


async def measure_transaction(address: str) -> tuple[float, float]:
    """Return what the deadline costs a small transaction, and what that takes without."""
    database = Database(DatabaseSettings(url=SecretStr(address)))
    enter_call(Call(time.monotonic() + 3600))
    differences, plain = [], []
    try:
        for number in range(PAIRS):
            before = await time_transaction_us(database) if number % 2 else 0.0
            with without_deadline():
                plain.append(await time_transaction_us(database))
            differences.append((before or await time_transaction_us(database)) - plain[-1])
    finally:
        await database.close()
    return median(differences), median(plain)


async def time_transaction_us(database: Database) -> float:
    """Return how long a transaction with one small statement takes."""
    began = perf_counter()
    async with database.transaction() as session:
        await session.execute(text("SELECT 1"))
    return (perf_counter() - began) * 1e6


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""A million rows backfilled while the service serves: what its callers notice, and whether the bar is right.

    python benchmarks/backfill.py                     one million rows on PostgreSQL, some minutes
    python benchmarks/backfill.py --rows 200000 --rate 50 --seconds 3

A real Uvicorn serves a `create_app` in one process, another one calls it at a steady rate, one call in five
writing, and the data migration runs in a third with the library's defaults. It is held between two batches
again and again, so that quiet phases and phases of the backfill lie between each other. Last, the same change
as one UPDATE. Exit code 1 when the p99 beside the backfill is not under twice the quiet one, when a call
fails, when the backfill's memory grows, or when its bar is wrong by more than 2 %.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TypeAlias
from uuid import uuid4

import asyncpg
import sqlalchemy as sa
from fastapi import APIRouter
from httpx2 import AsyncClient, Limits
from pydantic import SecretStr

from backstay import Database, ReadSessionDep, SessionDep, create_app, public
from backstay.db.migrations.data import DataMigrations, DataProgress
from backstay.settings import DatabaseSettings, MigrationSettings, Settings

SERVER = os.environ.get("BACKSTAY_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")

SETTLE_SECONDS = 1.0
ALLOWED_RATIO = 2.0
ALLOWED_GROWTH_BYTES = 10 * 1024 * 1024
ALLOWED_ERROR = 0.02
WARM_UP_SHARE = 0.05
"""Of the rows; what is allocated until then is caches that fill."""

MIGRATION = '''"""Fill full_name."""

import sqlalchemy as sa

table = "people"


def migrate(connection, batch):
    people = sa.table("people", *map(sa.column, ("person_id", "first_name", "last_name", "full_name")))
    change = sa.update(people).where(batch.holds(people.c.person_id))
    full_name = people.c.first_name + " " + people.c.last_name
    return connection.execute(change.values(full_name=full_name)).rowcount
'''
TABLE = """
CREATE TABLE people (person_id bigint PRIMARY KEY, first_name text, last_name text, full_name text,
    visits integer NOT NULL DEFAULT 0)
"""
FILL = "INSERT INTO people SELECT g, 'first ' || g, 'last ' || g FROM generate_series(1, $1::int) g"
UNBATCHED = "UPDATE people SET full_name = first_name || ' ' || last_name"
TRUE_SHARE = "SELECT count(full_name)::float / count(*) FROM people"

Call: TypeAlias = tuple[float, float, bool]
"""When it was due, how many seconds its answer took, and whether it was a success."""
Window: TypeAlias = tuple[float, float]


# -- the three other processes


def serve(url: str, port: int) -> None:
    """Serve a service that reads people and counts their visits."""
    import uvicorn

    router = APIRouter()
    people = sa.table("people", *map(sa.column, ("person_id", "first_name", "visits")))

    @router.get("/people/{person_id}")
    async def read(person_id: int, session: ReadSessionDep) -> str | None:
        return await session.scalar(sa.select(people.c.first_name).where(people.c.person_id == person_id))

    @router.post("/people/{person_id}/visits")
    async def visit(person_id: int, session: SessionDep) -> None:
        change = sa.update(people).where(people.c.person_id == person_id)
        await session.execute(change.values(visits=people.c.visits + 1))

    settings = Settings(environment="test", database=DatabaseSettings(url=SecretStr(url)))
    uvicorn.run(
        create_app(settings, routers=[router], dependencies=[public]),
        port=port,
        log_level="warning",
        access_log=False,
    )


async def call_steadily(port: int, *, rows: int, rate: int) -> None:
    """Call until SIGTERM, then print every call.

    A call is timed from when it was due, so that a stall counts for each call that it holds up.
    """
    calls: list[Call] = []
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    base, limits = f"http://127.0.0.1:{port}", Limits(max_connections=100)
    async with AsyncClient(base_url=base, timeout=60, limits=limits) as client:

        async def call(number: int, due: float) -> None:
            path = f"/people/{random.randint(1, rows)}"
            response = await (client.post(f"{path}/visits") if number % 5 == 0 else client.get(path))
            calls.append((due, time.time() - due, response.is_success))

        print("calling", flush=True)
        began, number = time.time(), 0
        async with asyncio.TaskGroup() as group:
            while not stopping.is_set():
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.time()))
                group.create_task(call(number, due))
                number += 1
    print(json.dumps(calls))


async def backfill(url: str, folder: Path, *, batch_size: int) -> None:
    """Run the data migration, and print after each batch what the bar says and how much memory it has.

    While the file `held` is there it waits between two batches, in no transaction.
    """
    held = folder / "held"

    def tell(progress: DataProgress) -> None:
        told = {"share": progress.share, "done": progress.state == "done", "bytes": _resident_bytes()}
        print(json.dumps(told), flush=True)
        while held.exists():
            time.sleep(0.02)

    database = Database(DatabaseSettings(url=SecretStr(url)))
    await DataMigrations(folder, batch_size=batch_size).run(database, "fill_full_name", on_progress=tell)
    await database.close()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- the run


@dataclass
class Backfill:
    """The process that backfills, held and let go."""

    process: subprocess.Popen[str]
    held: Path
    told: list[dict[str, float]]

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end."""
        return bool(self.told and self.told[-1]["done"])

    def listen(self) -> None:
        """Take down what it tells."""
        self.told += map(json.loads, self.process.stdout or ())


class Bench:
    """One database, the processes at work on it, and what they measure."""

    def __init__(self, url: str, folder: Path, given: argparse.Namespace) -> None:
        self.url, self.folder = url, folder
        self.rows: int = given.rows
        self.rate: int = given.rate
        self.seconds: float = given.seconds
        self.batch_size: int = given.batch_size
        self.port = _free_port()
        self.quiet: list[Window] = []
        self.busy: list[Window] = []
        self.errors: list[float] = []

    @contextlib.contextmanager
    def started(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """Start this script in another role, and end it with the block."""
        options = ["--url", self.url, "--rows", self.rows, "--rate", self.rate, *arguments]
        options += ["--batch-size", self.batch_size]
        command = [sys.executable, __file__, *map(str, options)]
        # Nobody reads what a server writes: a full pipe would stop it.
        is_server = "--serve" in arguments
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL if is_server else subprocess.PIPE,
            stderr=subprocess.DEVNULL if is_server else None,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serve while the block runs."""
        with self.started("--serve", self.port) as server:
            _wait_for(self.port, server)
            yield

    async def fill(self) -> None:
        """Make the table anew."""
        async with self._connected() as connection:
            await connection.execute("DROP TABLE IF EXISTS people")
            await connection.execute(TABLE)
            await connection.execute(FILL, self.rows)

    async def run_batches(self) -> tuple[list[Call], Backfill]:
        """Backfill in batches, with quiet phases between."""
        held = self.folder / "held"
        held.touch()
        with self.started("--call", self.port) as caller, self.started("--backfill", self.folder) as process:
            running = Backfill(process, held, [])
            Thread(target=running.listen, daemon=True).start()
            await _started(caller)
            while not running.told:  # noqa: ASYNC110  a thread listens
                await asyncio.sleep(0.02)
            while not running.is_done:
                await self._alternate(running)
            return _stop(caller), running

    async def _alternate(self, running: Backfill) -> None:
        await self._watch(self.quiet, running)
        running.held.unlink()
        await self._watch(self.busy, running)
        running.held.touch()
        await asyncio.sleep(SETTLE_SECONDS)
        async with self._connected() as connection:
            truth = float(await connection.fetchval(TRUE_SHARE))
        self.errors.append(abs(running.told[-1]["share"] - truth))

    async def _watch(self, windows: list[Window], running: Backfill) -> None:
        began = time.time()
        while time.time() - began < self.seconds and not running.is_done:  # noqa: ASYNC110  a thread listens
            await asyncio.sleep(0.02)
        windows.append((began, time.time()))

    async def run_unbatched(self) -> list[Call]:
        """Change all rows in one statement, and return the calls that came meanwhile."""
        with self.started("--call", self.port) as caller:
            await _started(caller)
            began = time.time()
            async with self._connected() as connection:
                await connection.execute(UNBATCHED)
            window = began, time.time()
            await asyncio.sleep(SETTLE_SECONDS)
            return _within(_stop(caller), window)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()


async def _started(caller: subprocess.Popen[str]) -> None:
    if caller.stdout is None or not await asyncio.to_thread(caller.stdout.readline):
        raise SystemExit("The calling process did not start.")
    await asyncio.sleep(SETTLE_SECONDS)


def _stop(caller: subprocess.Popen[str]) -> list[Call]:
    caller.terminate()
    output, _ = caller.communicate()
    return [tuple(call) for call in json.loads(output)]


def _within(calls: Sequence[Call], window: Window) -> list[Call]:
    return [call for call in calls if window[0] <= call[0] < window[1]]


def _percentile(calls: Sequence[Call], share: float) -> float:
    """Return the milliseconds within which a share of the calls was answered."""
    taken = sorted(call[1] for call in calls)
    return taken[min(len(taken) - 1, int(len(taken) * share))] * 1000


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit(f"The server ended with code {process.returncode}.")
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise SystemExit("The server did not start within 30 s.")


# -- the claim


def judge(bench: Bench, calls: list[Call], running: Backfill, unbatched: list[Call]) -> bool:
    """Print what was measured, and return whether the claim holds."""
    # A last phase that was short says nothing of a 99th percentile.
    pairs = [
        (_within(calls, quiet), _within(calls, busy))
        for quiet, busy in zip(bench.quiet, bench.busy, strict=True)
        if busy[1] - busy[0] >= bench.seconds / 2
    ]
    quiet, busy = ([_percentile(pair[side], 0.99) for pair in pairs] for side in (0, 1))
    ratio = statistics.median(after / before for before, after in zip(quiet, busy, strict=True))
    failed = sum(not call[2] for call in calls)
    resident = [told["bytes"] for told in running.told if told["share"] >= WARM_UP_SHARE]
    growth, error = resident[-1] - resident[0], max(bench.errors)
    rate = bench.rows / sum(window[1] - window[0] for window in bench.busy)
    for before, after in zip(quiet, busy, strict=True):
        print(f"  p99 quiet {before:6.1f} ms, beside the backfill {after:6.1f} ms: {after / before:.2f}")
    refused = sum(not call[2] for call in unbatched)
    print(
        f"  one UPDATE without batches: p99 {_percentile(unbatched, 0.99):.0f} ms, "
        f"{refused} of {len(unbatched)} calls failed"
    )
    print(
        f"Backfill: {bench.rows:,} rows at {rate:,.0f} a second in {len(running.told) - 1:,} batches while "
        f"{len(calls):,} calls came, {bench.rate} a second, {failed} failed; "
        f"p99 {statistics.median(busy):.1f} ms beside it and {statistics.median(quiet):.1f} ms without, "
        f"{ratio:.2f} times (medians of {len(pairs)} pairs); its memory grew by {growth / 2**20:.1f} MiB, "
        f"its bar was off by {error:.2%} at the most."
    )
    is_calm = ratio < ALLOWED_RATIO and failed == 0
    return is_calm and growth < ALLOWED_GROWTH_BYTES and error <= ALLOWED_ERROR


async def measure(given: argparse.Namespace) -> bool:
    """Measure on a database of its own."""
    server = await asyncpg.connect(SERVER)
    name = f"backstay_backfill_{uuid4().hex[:12]}"
    await server.execute(f"CREATE DATABASE {name}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            data.mkdir()
            (data / "20261125_fill_full_name.py").write_text(MIGRATION)
            url = f"{SERVER.rpartition('/')[0]}/{name}"
            bench = Bench(url, Path(folder), given)
            await bench.fill()
            with bench.serving():
                calls, running = await bench.run_batches()
                await bench.fill()
                unbatched = await bench.run_unbatched()
            return judge(bench, calls, running, unbatched)
    finally:
        await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await server.close()


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    usual = MigrationSettings().batch_size
    parser.add_argument("--batch-size", type=int, default=usual, help="rows of a batch")
    parser.add_argument("--rate", type=int, default=100, help="calls a second")
    parser.add_argument("--seconds", type=float, default=8, help="of each phase")
    for name in ("--url", "--serve", "--call", "--backfill"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.url, int(given.serve))
    elif given.call:
        asyncio.run(call_steadily(int(given.call), rows=given.rows, rate=given.rate))
    elif given.backfill:
        asyncio.run(backfill(given.url, Path(given.backfill), batch_size=given.batch_size))
    else:
        return 0 if asyncio.run(measure(given)) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

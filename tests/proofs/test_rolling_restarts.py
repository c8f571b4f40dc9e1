"""A deploy loses no request: instances behind a proxy are restarted one after another, under load."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, select

from backstay.db import Database

from .balancer import PROBE_SECONDS, UNREADY_PROBES, Instance, balancing, read_message

pytestmark = pytest.mark.proof

_logger = logging.getLogger(__name__)

CALLERS = 20
RATE = 200
SLOW_CALLERS = 4
DEADLINE_SECONDS = 3600

tables = MetaData()
deploys = Table("proof_deploys", tables, Column("id", Integer, primary_key=True))

_SERVICE = """
import asyncio
from sqlalchemy import text
from backstay import ReadSessionDep, SessionDep, Settings, SettingsConfigDict, create_app, public


class ProofSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="PROOF_")


app = create_app(ProofSettings(), dependencies=[public])


@app.get("/fast")
async def read(session: ReadSessionDep) -> int | None:
    return await session.scalar(text("SELECT 1"))


@app.post("/fast", status_code=201)
async def write(session: SessionDep) -> None:
    await session.execute(text("INSERT INTO proof_deploys DEFAULT VALUES"))


@app.get("/slow")
async def wait() -> str:
    await asyncio.sleep(1)
    return "waited"
"""

_PLAIN = """
import asyncio
from fastapi import FastAPI

app = FastAPI()


@app.get("/readyz")
@app.get("/fast")
async def read() -> int:
    return 1


@app.post("/fast", status_code=201)
async def write() -> None:
    pass


@app.get("/slow")
async def wait() -> str:
    await asyncio.sleep(1)
    return "waited"
"""


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


class Process:
    """An instance that can be restarted."""

    def __init__(
        self, instance: Instance, command: list[str], *, folder: Path, variables: dict[str, str]
    ) -> None:
        self.instance = instance
        self._command = [sys.executable, "-m", *command, "--port", str(instance.port)]
        self._folder = folder
        self._environment = os.environ | variables
        self._log = (folder / f"{instance.port}.log").open("ab")
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    async def restart(self) -> int:
        """Stop it by SIGTERM, start it again, and return how it ended once the proxy takes it for ready."""
        self._process.terminate()
        code = await asyncio.to_thread(self._process.wait, 60)
        self._process = self._start()
        await self.wait_until_ready()
        return code

    async def wait_until_ready(self) -> None:
        """Wait until the proxy has seen it down, and then up."""
        self.instance.is_ready = False
        self.instance.has_come_up.clear()
        async with asyncio.timeout(60):
            await self.instance.has_come_up.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


class Load:
    """Callers that keep their connections to the proxy, and write down how each request ended."""

    def __init__(self, port: int, *, writes_every: int) -> None:
        self._port = port
        self._writes_every = writes_every
        self._is_over = False
        self.outcomes: Counter[str] = Counter()
        self.written = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                callers.create_task(self._call("/fast", pause=CALLERS / RATE, delay=number / RATE))
            for number in range(SLOW_CALLERS):
                callers.create_task(self._call("/slow", pause=0, delay=number / SLOW_CALLERS))
            yield
            self._is_over = True

    async def _call(self, path: str, *, pause: float, delay: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        due = monotonic() + delay
        count = 0
        while not self._is_over:
            await asyncio.sleep(max(0.0, due - monotonic()))
            due += pause
            count += 1
            method = "POST" if path == "/fast" and count % self._writes_every == 0 else "GET"
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n".encode()
            )
            answer = await read_message(reader)
            self.written += method == "POST" and answer.status == 201
            is_good = answer.status in {200, 201}
            self.outcomes["ok" if is_good else f"{path} {answer.status} {answer.body.decode()}"] += 1
        writer.close()

    @property
    def failed(self) -> int:
        return self.outcomes.total() - self.outcomes["ok"]


@pytest.fixture
def ports() -> list[int]:
    """Two that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    found = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return found


async def _deploy(
    folder: Path,
    ports: list[int],
    command: list[str],
    variables: dict[str, str],
    *,
    rounds: int,
    writes_every: int = 4,
) -> tuple[Load, list[int], float]:
    """Restart both instances so many times under load; return what the callers saw, and the exit codes."""
    async with asyncio.timeout(DEADLINE_SECONDS), balancing(ports) as (balancer, port):
        processes = [_start(instance, command, folder, variables) for instance in balancer.instances]
        try:
            for process in processes:
                await process.wait_until_ready()
            load, began = Load(port, writes_every=writes_every), monotonic()
            async with load.running():
                codes = [await process.restart() for _ in range(rounds) for process in processes]
            return load, codes, monotonic() - began
        finally:
            for process in processes:
                process.kill()


def _start(instance: Instance, command: list[str], folder: Path, variables: dict[str, str]) -> Process:
    return Process(instance, command, folder=folder, variables=variables)


@pytest.mark.databases("sqlite", "postgresql")
async def test_twenty_rolling_restarts_lose_no_request(
    tmp_path: Path, ports: list[int], database: Database, database_url: str, length: Any
) -> None:
    rounds = length(short=1, full=20)
    if rounds == 1 and database.is_postgresql:
        pytest.skip("The short form runs on SQLite.")
    (tmp_path / "service.py").write_text(_SERVICE)
    (tmp_path / "pyproject.toml").write_text('[tool.backstay]\napp = "service:app"\n')
    variables = {
        "PROOF_DATABASE__URL": database_url,
        "PROOF_SERVER__DRAIN": f"{2 * 2 * UNREADY_PROBES * PROBE_SECONDS}s",
        "PROOF_LOGGING__ACCESS": "false",
    }

    load, codes, seconds = await _deploy(
        tmp_path,
        ports,
        ["backstay", "run"],
        variables,
        rounds=rounds,
        # Two processes take turns at SQLite's one lock, and no queue says whose it is.
        writes_every=4 if database.is_postgresql else 40,
    )

    _logger.info("%d rolling restarts in %.0f s: %s", rounds, seconds, load.outcomes)
    assert load.outcomes.keys() == {"ok"}
    assert codes == [0] * rounds * 2
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(deploys)) == load.written > 0
    assert _find_errors(tmp_path) == []


def _find_errors(folder: Path) -> list[str]:
    lines = [line for log in folder.glob("*.log") for line in log.read_text().splitlines()]
    return [line for line in lines if "Traceback" in line or '"level":"error"' in line]


async def test_a_plain_service_behind_the_same_proxy_loses_some(
    tmp_path: Path, ports: list[int], length: Any
) -> None:
    if length(short=0, full=1) == 0:
        pytest.skip("It takes longer than the short form may.")
    (tmp_path / "service.py").write_text(_PLAIN)

    load, _, _ = await _deploy(tmp_path, ports, ["uvicorn", "service:app"], {}, rounds=1)

    assert load.failed > 0, load.outcomes

"""`/metrics` of several workers is the sum of what was sent, also when one of them is killed and replaced.

"What was sent" is what was answered: each answer is counted before its last byte leaves, so none that a
caller holds is missing. A request under way in a killed worker may be counted and never answered: those are
told apart below, and bound the difference.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Column, Integer, MetaData, Table

pytestmark = pytest.mark.proof

_DEADLINE_SECONDS = 120

tables = MetaData()
Table("proof_counts", tables, Column("id", Integer, primary_key=True))

_APP = """
from fastapi import APIRouter
from sqlalchemy import text
from backstay import ReadSessionDep, SessionDep, Settings, create_app, public

router = APIRouter()

@router.get("/counts/{number}")
async def read(number: int, session: ReadSessionDep) -> int | None:
    return await session.scalar(text("SELECT :number"), {"number": str(number)})

@router.post("/counts", status_code=201)
async def write(session: SessionDep) -> None:
    await session.execute(text("INSERT INTO proof_counts DEFAULT VALUES"))

app = create_app(Settings(), routers=[router], dependencies=[public])
"""


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


class Service:
    """Several workers behind one address, and what they have answered."""

    def __init__(self, address: str, folder: Path) -> None:
        self._host = address.removeprefix("http://")
        self._folder = folder
        self.answered: Counter[tuple[str, str, str]] = Counter()
        self.broken = 0
        self._lock = threading.Lock()

    def ask(self, method: str, path: str) -> bytes | None:
        """Send a request on a connection of its own, and count it when it was answered."""
        connection = http.client.HTTPConnection(self._host, timeout=_DEADLINE_SECONDS)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            with self._lock:
                self.broken += 1
            return None
        finally:
            connection.close()
        with self._lock:
            self.answered[method, _TEMPLATES[path], str(answer.status)] += 1
        return body

    def scrape(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Return each sample; a scrape that breaks is a failure, whatever else happens."""
        connection = http.client.HTTPConnection(self._host, timeout=_DEADLINE_SECONDS)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def counted(self) -> Counter[tuple[str, str, str]]:
        """Return the requests that `/metrics` tells of, scrapes aside."""
        counted: Counter[tuple[str, str, str]] = Counter()
        for (name, labels), value in self.scrape().items():
            said = dict(labels)
            if name == "backstay_http_request_duration_seconds_count" and said["route"] != "/metrics":
                counted[said["method"], said["route"], said["status"]] = int(value)
        return counted

    def gauge(self, name: str, **labels: str) -> float | None:
        return self.scrape().get((name, tuple(sorted(labels.items()))))

    def wait_for_starts(self, count: int) -> None:
        """Return when so many workers have started since the beginning."""
        _wait_until(lambda: self._count_starts() >= count)

    def _count_starts(self) -> int:
        return (self._folder / "output").read_text().count("Application startup complete")

    def kill_one(self) -> int:
        """Kill a worker, and return when another has taken its place."""
        starts = self._count_starts()
        victim = min(pid for pid in map(int, self._list_announced()) if _is_alive(pid))
        os.kill(victim, signal.SIGKILL)
        self.wait_for_starts(starts + 1)
        return victim

    def _list_announced(self) -> list[str]:
        return [path.stem for path in self._folder.glob("*/*.alive")]

    def ask_often(self, method: str, path: str, *, count: int) -> None:
        """Send requests from several threads at once: one after the other, they all meet one worker."""
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: self.ask(method, path), range(count)))


def _is_alive(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def _wait_until(is_so: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + _DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


_TEMPLATES = {"/counts/7": "/counts/{number}", "/counts": "/counts", "/nowhere": "unmatched"}


@pytest.fixture
def serve(tmp_path: Path, database_url: str) -> Callable[..., Any]:
    @contextmanager
    def start(*command: str, workers: int, **environment: str) -> Iterator[Service]:
        (tmp_path / "counting_app.py").write_text(_APP)
        (tmp_path / "pyproject.toml").write_text("")
        output = tmp_path / "output"
        with output.open("w") as writing:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--port", "0", "--workers", str(workers)],
                cwd=tmp_path,
                env=_environment(tmp_path, database_url) | environment,
                stdout=writing,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        try:
            service = Service(_wait_for_address(process, output), tmp_path)
            service.wait_for_starts(workers)
            yield service
            process.terminate()
            process.wait(_DEADLINE_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return start


def _environment(folder: Path, database_url: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")}
    return environment | {
        "PYTHONPATH": str(folder),
        "TMPDIR": str(folder),
        "BACKSTAY_DATABASE__URL": database_url,
        "BACKSTAY_LOGGING__ACCESS": "false",
    }


def _wait_for_address(process: subprocess.Popen[bytes], output: Path) -> str:
    ends_at = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < ends_at:
        found = re.search(r"http://127\.0\.0\.1:\d+", output.read_text())
        if found is not None:
            return found[0]
        assert process.poll() is None, output.read_text()
        time.sleep(0.05)
    raise AssertionError(output.read_text())


@contextmanager
def load(service: Service, *, threads: int = 6) -> Iterator[None]:
    """Send requests, and scrape, for as long as the block runs; no count may ever fall."""
    is_over = threading.Event()
    fallen: list[object] = []

    def send() -> None:
        while not is_over.is_set():
            for method, path in (("GET", "/counts/7"), ("POST", "/counts"), ("GET", "/nowhere")):
                service.ask(method, path)

    def scrape() -> None:
        before: Counter[tuple[str, str, str]] = Counter()
        while not is_over.wait(0.02):
            try:
                now = service.counted()
            except (OSError, http.client.HTTPException):
                continue  # the killed worker was the one that answered
            except Exception as error:  # noqa: BLE001  a thread's error is the test's
                fallen.append(error)
                return
            fallen.extend((key, before[key], now[key]) for key in before if now[key] < before[key])
            before = now

    running = [threading.Thread(target=send) for _ in range(threads)] + [threading.Thread(target=scrape)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in running:
            thread.join(_DEADLINE_SECONDS)
    assert fallen == []


@pytest.mark.databases("sqlite", "postgresql")
def test_metrics_of_four_workers_are_the_sum_of_what_was_sent(
    serve: Any, tmp_path: Path, length: Any
) -> None:
    with serve("backstay", "run", "--app", "counting_app:app", workers=4) as service:
        service.ask_often("GET", "/counts/7", count=40)
        service.ask_often("GET", "/nowhere", count=5)
        assert service.counted() == service.answered

        # Killed while nothing is under way: the sum is exact.
        victim = service.kill_one()
        service.ask_often("POST", "/counts", count=40)
        assert service.broken == 0
        assert service.counted() == service.answered

        # Its gauges are gone, and those of the new one are there: four pools of 15 connections.
        (folder,) = tmp_path.glob("backstay-metrics-*")
        _wait_until(lambda: service.gauge("backstay_db_pool_size", pool="writing") == 4 * 15)
        assert list(folder.glob(f"gauge_live*_{victim}.db")) == []
        _wait_until(lambda: service.gauge("backstay_http_requests_in_flight") == 0)

        # Killed under load: what was answered is there, and beyond it no more than what was broken off.
        with load(service):
            for _ in range(length(short=1, full=20)):
                service.kill_one()
        counted = service.counted()
        assert all(counted[key] >= number for key, number in service.answered.items())
        assert 0 <= counted.total() - service.answered.total() <= service.broken
    assert not folder.exists()


@pytest.mark.databases("sqlite")
class TestUvicorn:
    def test_workers_that_count_alone_are_wrong(self, serve: Any) -> None:
        """The fault, without a folder: each scrape meets one worker and tells of that one."""
        with serve("uvicorn", "counting_app:app", workers=2) as service:
            service.ask_often("GET", "/nowhere", count=200)
            scrapes = [service.counted() for _ in range(10)]

        assert all(counted.total() < service.answered.total() for counted in scrapes)

    def test_a_folder_of_the_users_own_makes_them_right(self, serve: Any, tmp_path: Path) -> None:
        folder = tmp_path / "own"
        folder.mkdir()
        shared = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
        with serve("uvicorn", "counting_app:app", workers=2, **shared) as service:
            service.ask_often("GET", "/nowhere", count=80)
            service.kill_one()
            service.ask_often("GET", "/nowhere", count=20)

            assert service.broken == 0
            assert service.counted() == service.answered

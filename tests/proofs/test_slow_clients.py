"""Callers that take their time are closed, the others do not notice, and no attack fills the memory."""

import gzip
import http.client
import json
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from time import monotonic, perf_counter, sleep
from typing import Any

import pytest

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(sys.platform != "linux", reason="It asks Linux for the end of a connection."),
]

_logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("slow_clients.py")
CROWD = 1000
LIMIT_SECONDS = 6.0
GROWTH_BYTES = 32 * 1024 * 1024
FILES = 4 * CROWD
PAIRS = 5
PHASE_SECONDS = 10.0

_SERVICE = """
from fastapi import Request, UploadFile
from fastapi.responses import StreamingResponse
from backstay import Settings, SettingsConfigDict, create_app, public


class ProofSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="PROOF_")


app = create_app(ProofSettings(), dependencies=[public])


@app.get("/fast")
async def read() -> int:
    return 1


@app.post("/upload")
async def upload(request: Request) -> int:
    return len(await request.body())


@app.post("/json")
async def read_json(document: dict[str, int]) -> int:
    return len(document)


@app.post("/form")
async def read_form(request: Request) -> int:
    async with request.form() as form:
        return len(form)


@app.get("/large")
async def stream() -> StreamingResponse:
    async def pieces():
        for _ in range(1600):
            yield b"x" * 65536

    return StreamingResponse(pieces(), media_type="application/octet-stream")
"""


class Served:
    """The service in a process of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "service.py").write_text(_SERVICE)
        (folder / "pyproject.toml").write_text('[tool.backstay]\napp = "service:app"\n')
        self._log = folder / "service.log"
        environment = {
            **os.environ,
            "PROOF_DATABASE__URL": "sqlite:///service.db",
            "PROOF_LOGGING__ACCESS": "false",
        }
        with self._log.open("wb") as written:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "backstay", "run", "--port", "0"],
                cwd=folder,
                env=environment,
                stdout=written,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self.port = self._wait_for_port()

    def _wait_for_port(self) -> int:
        until = monotonic() + 60
        while monotonic() < until and self.process.poll() is None:
            text = self._log.read_text()
            if (found := re.search(r"http://127\.0\.0\.1:(\d+)", text)) and "startup complete" in text:
                return int(found[1])
            sleep(0.05)
        raise AssertionError(f"The service did not start:\n{self._log.read_text()}")

    def resident_bytes(self, field: str = "VmRSS") -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{field}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    served = Served(folder)
    try:
        yield served
    finally:
        os.killpg(served.process.pid, signal.SIGKILL)
        served.process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < FILES:
        pytest.skip("This machine does not allow so many open sockets.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], FILES), before[1]))
    with serving(tmp_path_factory.mktemp("slow")) as served:
        yield served
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def crowd(port: int) -> Iterator[subprocess.Popen[str]]:
    """Run slow callers, a quarter of them in each way, until none is left."""
    command = [sys.executable, str(SCRIPT), str(port), str(CROWD), str(5 * LIMIT_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_thousand_slow_clients_are_closed_within_six_seconds(served: Served) -> None:
    late = 0.0
    with crowd(served.port) as slow:
        while slow.poll() is None:
            late = max(late, _ask(served.port))  # what this machine does beside is nobody's fault here
            sleep(0.05)
        assert slow.stdout is not None
        borne = json.load(slow.stdout)

    told = ", ".join(
        f"{kind}: {len(times)}, the last after {max(times):.2f} s" for kind, times in borne.items()
    )
    _logger.info("%s; another request took up to %.2f s", told, late)
    assert sum(map(len, borne.values())) == CROWD, told
    # Taken late, and closed late.
    assert max(max(times) for times in borne.values()) < LIMIT_SECONDS + 2 * late, told


def test_the_others_do_not_notice_them(served: Served, tmp_path: Path, length: Any) -> None:
    """Pairs of phases, in which the same crowd is at another server and at this one.

    So the processors are as busy in both, and what differs is what the crowd does to those beside it.
    """
    pairs = length(short=0, full=PAIRS)
    if not pairs:
        pytest.skip("Times are compared at full length only.")
    measured = []
    with serving(tmp_path) as other:
        for _ in range(pairs):
            with crowd(other.port):
                quiet = _measure_p99(served.port)
            with crowd(served.port):
                crowded = _measure_p99(served.port)
            measured.append((quiet, crowded))

    told = ", ".join(f"{quiet * 1e3:.1f} and {crowded * 1e3:.1f} ms" for quiet, crowded in measured)
    _logger.info("%s", told)
    assert median(crowded / quiet for quiet, crowded in measured) < 2, told


def _measure_p99(port: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    times, until = [], monotonic() + PHASE_SECONDS
    while monotonic() < until:
        began = perf_counter()
        connection.request("GET", "/fast")
        connection.getresponse().read()
        times.append(perf_counter() - began)
        sleep(0.005)
    connection.close()
    return quantiles(times, n=100)[98]


def _ask(port: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    began = perf_counter()
    connection.request("GET", "/fast")
    assert connection.getresponse().status == 200
    connection.close()
    return perf_counter() - began


def _head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: shop.example", *lines, "", ""]).encode()


_BOUNDARY = "Content-Type: multipart/form-data; boundary=b"
_PART = b'--b\r\nContent-Disposition: form-data; name="%d"; filename="f"\r\n\r\nx\r\n'
_PARTS = b"".join(_PART % number for number in range(10_000)) + b"--b--\r\n"
_FIELDS = b"&".join(b"f%d=x" % number for number in range(100_000))
_MEMBERS = b"{" + b",".join(b'"k%d":1' % number for number in range(100_000)) + b"}"
_BOMB = gzip.compress(bytes(500 * 1024 * 1024), compresslevel=1)[: 900 * 1024]
_MB = b"x" * (1024 * 1024)

ATTACKS: dict[str, tuple[list[bytes], set[int]]] = {
    "a header of 50 MB": ([b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ", *[_MB] * 50], {431}),
    "a header's name of 50 MB": ([b"GET / HTTP/1.1\r\nHost: a\r\n", *[_MB] * 50], {431}),
    "a path of 50 MB": ([b"GET /", *[_MB] * 50], {414}),
    "a million headers": ([b"GET / HTTP/1.1\r\nHost: a\r\n", *[b"A: b\r\n" * 20_000] * 50], {431}),
    "trailers of 50 MB": (
        [_head("/upload", "Transfer-Encoding: chunked"), b"0\r\nX-A: ", *[_MB] * 50],
        {431},
    ),
    "an extension of 50 MB": (
        [_head("/upload", "Transfer-Encoding: chunked"), b"5;a=", *[_MB] * 50],
        {431},
    ),
    "a body without an end": (
        [_head("/upload", "Transfer-Encoding: chunked"), *[b"100000\r\n" + _MB + b"\r\n"] * 100],
        {413},
    ),
    "a declared body of 10 GB": ([_head("/upload", "Content-Length: 10000000000"), *[_MB] * 100], {413}),
    "a body that nobody reads": ([_head("/fast", "Content-Length: 10000000000"), *[_MB] * 100], {405, 413}),
    "10,000 parts": (
        [_head("/form", _BOUNDARY, f"Content-Length: {len(_PARTS)}"), _PARTS],
        {400},
    ),
    "100,000 fields": (
        [
            _head(
                "/form", "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(_FIELDS)}"
            ),
            _FIELDS,
        ],
        {400},
    ),
    "100,000 members": (
        [_head("/json", "Content-Type: application/json", f"Content-Length: {len(_MEMBERS)}"), _MEMBERS],
        {413, 422},
    ),
    "a gzip bomb": (
        [
            _head(
                "/json",
                "Content-Type: application/json",
                "Content-Encoding: gzip",
                f"Content-Length: {len(_BOMB)}",
            ),
            _BOMB,
        ],
        {400},
    ),
    "20,000 requests at once": ([b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n" * 20_000], {200}),
}


def test_attacks_by_heads_and_bodies_grow_the_memory_by_32_mb_at_the_most(served: Served) -> None:
    with ThreadPoolExecutor(len(ATTACKS)) as pool:  # what stays for good: pools, caches, arenas
        first = [[piece[:200_000] for piece in pieces] for pieces, _ in ATTACKS.values()]
        list(pool.map(_attack, [served.port] * len(first), first))
    served.forget_peak()
    before = served.resident_bytes()

    with ThreadPoolExecutor(len(ATTACKS) * 2) as pool:
        asked = {
            name: [pool.submit(_attack, served.port, pieces) for _ in range(2)]
            for name, (pieces, _) in ATTACKS.items()
        }
        answered = {name: {one.result() for one in both} for name, both in asked.items()}

    growth = served.resident_bytes("VmHWM") - before
    _logger.info("%.1f MB over %.1f MB; %s", growth / 1e6, before / 1e6, answered)
    assert {name for name, statuses in answered.items() if not statuses <= ATTACKS[name][1]} == set(), (
        answered
    )
    assert growth <= GROWTH_BYTES, f"{growth / 1e6:.1f} MB"
    assert '"level":"error"' not in served.log()


def _attack(port: int, pieces: list[bytes]) -> int | None:
    """Send as much as the server takes, and return the status of what it answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
        with suppress(OSError):
            if found := re.match(rb"HTTP/1.1 (\d+)", connection.recv(65536)):
                return int(found[1])
    return None

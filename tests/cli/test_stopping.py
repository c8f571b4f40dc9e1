"""A stop says so first, serves on while proxies notice, finishes what it has accepted, and ends with 0."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

_ROUTES = """

import asyncio
import sys

from backstay import current_runtime
from fastapi.responses import StreamingResponse


@app.get("/slow", dependencies=[public])
async def wait(seconds: float = 0.5) -> dict[str, bool]:
    print("slow began", flush=True)
    await asyncio.sleep(seconds)
    return {"slow": True}


@app.get("/events", dependencies=[public])
async def stream_events() -> StreamingResponse:
    async def events():
        while True:
            yield "data: tick\\n\\n"
            await asyncio.sleep(0.05)

    print("events began", flush=True)
    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/pieces", dependencies=[public])
async def stream_pieces() -> StreamingResponse:
    async def pieces():
        while True:
            yield "x"
            await asyncio.sleep(0.05)

    print("pieces began", flush=True)
    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/afterwards", dependencies=[public])
async def work_afterwards() -> None:
    async def work():
        await asyncio.sleep(0.5)
        print("background work is done", flush=True)

    current_runtime().background.start(work(), name="work")
"""


@pytest.fixture
def stopping(project: Any, serve: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Starts the service with settings of the server."""
    project.main.write_text(project.main.read_text() + _ROUTES)

    def start(*arguments: str, **server: str) -> tuple[Any, str]:
        for name, value in server.items():
            monkeypatch.setenv(f"TINY_SERVER__{name.upper()}", value)
        served = serve("run", "--port", "0", *arguments)
        address = served.wait_for_address().removeprefix("http://")
        _wait_until_ready(address)
        return served, address

    return start


def _wait_until_ready(address: str) -> None:
    until = monotonic() + 60
    while monotonic() < until:
        try:
            if _ask(address, "/readyz")[0] == 200:
                return
        except OSError:
            sleep(0.05)
    raise AssertionError("The service was never ready.")


def _ask(address: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


def test_readiness_fails_first_and_what_comes_is_still_answered(stopping: Any) -> None:
    served, address = stopping(drain="1500ms")
    idle = http.client.HTTPConnection(address, timeout=30)
    idle.request("GET", "/things")
    idle.getresponse().read()
    _ask(address, "/afterwards")

    served.process.send_signal(signal.SIGTERM)
    told = monotonic()
    while _ask(address, "/readyz")[0] == 200:
        sleep(0.02)
    status, _, body = _ask(address, "/livez")
    assert (status, json.loads(body)) == (200, {"alive": True})
    idle.request("GET", "/things")  # on the connection that was open before
    answer = idle.getresponse()
    assert (answer.status, answer.read()) == (200, b"[1,2]")
    outcome = served.wait()

    assert monotonic() - told > 1.5
    assert outcome.code == 0
    assert "background work is done" in outcome.out
    assert "Traceback" not in outcome.out
    with pytest.raises(ConnectionRefusedError):
        _ask(address, "/things")


def test_what_does_not_end_in_time_is_ended_and_tells_its_caller(stopping: Any) -> None:
    served, address = stopping(grace="1s")
    with ThreadPoolExecutor() as pool:
        asked = {}
        for path in ("/slow?seconds=60", "/events", "/pieces"):
            asked[path] = pool.submit(_ask, address, path)
            served.wait_for("began")
        outcome = served.finish(signal.SIGTERM)

        status, headers, body = asked["/slow?seconds=60"].result()
        assert (status, json.loads(body)["detail"]) == (503, "The service is stopping.")
        assert headers["connection"] == "close"
        status, _, body = asked["/events"].result()  # http.client raises when the end is missing
        assert (status, body.endswith(b"data: tick\n\n")) == (200, True)
        with pytest.raises(http.client.IncompleteRead):
            asked["/pieces"].result()  # nobody may take it for the whole

    assert outcome.code == 0
    assert "CancelledError" not in outcome.out


def test_a_later_signal_hurries_each_step(stopping: Any) -> None:
    served, address = stopping("--workers", "2", drain="60s", grace="60s")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(_ask, address, "/slow?seconds=60")
        served.wait_for("slow began")
        began = monotonic()
        served.process.send_signal(signal.SIGTERM)
        served.wait_for("requests are taken for")
        assert _ask(address, "/readyz")[0] in {200, 503}  # either worker takes it
        sleep(2.1)  # what comes sooner is the same news, from another sender
        served.process.send_signal(signal.SIGTERM)
        served.wait_for("accepted requests have")
        sleep(2.1)
        outcome = served.finish(signal.SIGTERM)

        assert slow.result()[0] == 503
    assert outcome.code == 0
    assert monotonic() - began < 30


def test_under_uvicorns_own_command_readiness_fails_first_too(project: Any, free_port: int) -> None:
    project.main.write_text(project.main.read_text() + _ROUTES)
    log = Path("server.log")
    with log.open("wb") as written:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", f"{project.package}.main:app", "--app-dir", "src"),
                *("--port", str(free_port), "--http", "backstay.server:HttpProtocol", "--no-server-header"),
            ],
            env={**os.environ, "TINY_SERVER__DRAIN": "1s"},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"127.0.0.1:{free_port}"
        _wait_until_ready(address)
        process.send_signal(signal.SIGTERM)
        while _ask(address, "/readyz")[0] == 200:
            sleep(0.02)
        assert _ask(address, "/things")[1]["connection"] == "close"
        assert process.wait(30) == -signal.SIGTERM  # Uvicorn dies of the signal, in the end
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port

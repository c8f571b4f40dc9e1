import errno
import json
import signal
import socket
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

_SLOW = """

@app.get("/slow")
async def wait() -> dict[str, bool]:
    import asyncio

    print("slow began", flush=True)
    await asyncio.sleep(0.5)
    return {"slow": True}
"""


_COLLECTOR = """

@app.get("/collector")
async def look() -> dict[str, int]:
    import gc

    return {"frozen": gc.get_freeze_count(), "others": len(gc.get_objects())}
"""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_accepted_requests_and_ends_with_0(
    project: Any, serve: Any, get: Any, workers: str, number: int
) -> None:
    project.main.write_text(project.main.read_text() + _SLOW)
    served = serve("run", "--port", "0", "--workers", workers)
    address = served.wait_for_address()

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(get, f"{address}/slow")
        served.wait_for("slow began")
        outcome = served.finish(number)

    assert answer.result().json == {"slow": True}
    assert outcome.code == 0
    assert "Traceback" not in outcome.out


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_garbage_collection_passes_over_what_the_start_has_made(
    project: Any, serve: Any, get: Any, workers: str
) -> None:
    project.main.write_text(project.main.read_text() + _COLLECTOR)
    served = serve("run", "--port", "0", "--workers", workers)

    objects = get(f"{served.wait_for_address()}/collector").json
    assert served.finish(signal.SIGTERM).code == 0

    assert objects["frozen"] > 100_000
    assert objects["others"] < 20_000


def test_the_start_says_what_to_set_and_loses_no_signal(project: Any, serve: Any) -> None:
    served = serve("run", "--port", "0")
    served.wait_for("Serving tiny at")
    warning = json.loads(served.wait_for("The environment is"))

    assert warning["event"] == (
        "The environment is development; set TINY_ENVIRONMENT=production where the service is exposed."
    )
    assert served.finish(signal.SIGTERM).code == 0


def test_an_answer_does_not_name_the_server_and_its_log_has_one_shape(
    project: Any, serve: Any, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_ENVIRONMENT", "production")
    monkeypatch.setenv("TINY_SERVER__DRAIN", "0s")
    monkeypatch.setenv("TINY_DATABASE__URL", "sqlite:///service.db")
    served = serve("run", "--port", "0")
    answer = get(f"{served.wait_for_address()}/things")
    outcome = served.finish(signal.SIGTERM)

    assert answer.headers["server"] is None
    assert answer.headers["date"] is not None
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert {"backstay.cli", "uvicorn.error", "backstay.access"} <= {event["logger"] for event in events}
    assert {event["level"] for event in events} == {"info"}
    (access,) = [event for event in events if event["logger"] == "backstay.access"]
    assert (access["route"], access["status"]) == ("/things", 200)
    assert access["request_id"] == answer.headers["x-request-id"]


def test_proxies_are_believed_only_when_trusted(
    project: Any, serve: Any, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.main.write_text(
        project.main.read_text() + "\nfrom fastapi import Request\n\n@app.get('/who')\n"
        "async def who(request: Request):\n    return [request.client.host, request.url.scheme]\n"
    )
    forwarded = {"X_Forwarded_For": "203.0.113.9", "X_Forwarded_Proto": "https"}
    answers = []
    for trusted in ("127.0.0.1", "10.0.0.1"):
        monkeypatch.setenv("TINY_SERVER__TRUSTED_PROXIES", trusted)
        served = serve("run", "--port", "0")
        address = served.wait_for_address()
        answers.append(get(f"{address}/who", **forwarded).json)

    assert answers == [["203.0.113.9", "https"], ["127.0.0.1", "http"]]


@pytest.mark.parametrize("command", ["run", "dev"])
def test_a_taken_port_is_one_message(project: Any, backstay_process: Any, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = backstay_process(command, "--port", str(port))

    assert outcome.code == 1
    assert outcome.err == (
        f"error: Port {port} of 127.0.0.1 is taken.\n"
        f"hint: Stop what uses it, or choose another one: --port {port + 1}, "
        f"or TINY_SERVER__PORT={port + 1}.\n"
    )


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host"])
def test_an_address_of_another_machine_is_one_message(project: Any, backstay_process: Any, host: str) -> None:
    outcome = backstay_process("run", "--host", host)

    assert outcome.code == 1
    told, hinted = outcome.err.splitlines()
    assert told.startswith(f"error: The service cannot listen on {host}: ")
    assert hinted == "hint: Use 127.0.0.1, or 0.0.0.0 for all: --host, or TINY_SERVER__HOST."


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_without_its_database_is_one_message_and_ends_with_1(
    project: Any, backstay_process: Any, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", "postgresql://shop:hunter2@127.0.0.1:1/shop")

    outcome = backstay_process("run", "--port", "0", "--workers", workers)

    assert outcome.code == 1
    assert outcome.err == (
        "error: The database postgresql://shop:[redacted]@127.0.0.1:1/shop cannot be reached.\n"
        "hint: Start it, correct TINY_DATABASE__URL, or use sqlite:///service.db, which needs no server.\n"
    )
    assert "hunter2" not in outcome.out
    assert "Traceback" not in outcome.out


def test_a_port_that_belongs_to_root_is_one_message(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)

    outcome = backstay("run", "--port", "80")

    assert outcome.code == 1
    assert outcome.err == (
        "error: Port 80 of 127.0.0.1 is not allowed to this user; those below 1024 belong to root.\n"
        "hint: Choose another one: --port 8000, or TINY_SERVER__PORT=8000.\n"
    )


def test_an_error_inside_a_task_group_is_told_like_any_other(project: Any, backstay_process: Any) -> None:
    project.main.write_text(
        project.main.read_text()
        + _BROKEN_START.replace(
            '    raise RuntimeError("the cellar is locked")\n',
            "    from backstay.errors import ConfigurationError\n\n"
            '    locked = ConfigurationError("The cellar is locked.", hint="Find the key.")\n'
            '    raise ExceptionGroup("tasks", [locked])\n',
        )
    )

    outcome = backstay_process("run", "--port", "0")

    assert (outcome.code, outcome.err) == (1, "error: The cellar is locked.\nhint: Find the key.\n")


_BROKEN_START = """
from contextlib import asynccontextmanager


@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("the cellar is locked")
    yield


app = create_app(TinySettings(), lifespan=lifespan)
"""


@pytest.mark.parametrize("command", ["run", "dev"])
def test_a_start_that_raises_is_one_message(project: Any, backstay_process: Any, command: str) -> None:
    project.main.write_text(project.main.read_text() + _BROKEN_START)

    outcome = backstay_process(command, "--port", "0")

    assert outcome.code == 1
    told, hinted = outcome.err.splitlines()
    assert told.startswith(
        f"error: RuntimeError: the cellar is locked (in src/{project.package}/main.py, line "
    )
    assert hinted == "hint: --traceback shows the whole way there."


def test_the_traceback_of_a_start_comes_on_demand(project: Any, backstay_process: Any) -> None:
    project.main.write_text(project.main.read_text() + _BROKEN_START)

    outcome = backstay_process("run", "--port", "0", "--traceback")

    assert outcome.code == 1
    assert outcome.err.startswith("Traceback (most recent call last):")


def test_a_stop_that_raises_ends_with_1(project: Any, serve: Any) -> None:
    project.main.write_text(
        project.main.read_text()
        + _BROKEN_START.replace('    raise RuntimeError("the cellar is locked")\n', "").replace(
            "    yield\n", '    yield\n    raise RuntimeError("the cellar is locked")\n'
        )
    )
    served = serve("run", "--port", "0")
    served.wait_for("Application startup complete.")

    assert served.finish(signal.SIGTERM).code == 1


@pytest.mark.databases("sqlite", "postgresql")
def test_a_statement_that_fails_at_the_start_is_not_blamed_on_the_address(
    project: Any, backstay_process: Any, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", database_url)
    project.main.write_text(
        project.main.read_text()
        + _BROKEN_START.replace(
            '    raise RuntimeError("the cellar is locked")\n',
            "    from backstay import current_runtime\n    from sqlalchemy import text\n\n"
            "    async with current_runtime().database.reading() as session:\n"
            '        await session.execute(text("SELECT nothing FROM nowhere"))\n',
        )
    )

    outcome = backstay_process("run", "--port", "0")

    assert outcome.code == 1
    assert "nowhere" in outcome.err.splitlines()[0]
    assert f"(in src/{project.package}/main.py, line " in outcome.err


@pytest.mark.databases("postgresql")
def test_an_error_of_the_code_is_not_blamed_on_the_database(
    project: Any, backstay_process: Any, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", database_url)
    project.main.write_text(project.main.read_text() + _BROKEN_START)

    outcome = backstay_process("run", "--port", "0")

    assert outcome.err.startswith("error: RuntimeError: the cellar is locked (in src/")


@pytest.mark.parametrize("arguments", [("dev",), ("run",), ("run", "--workers", "2")])
def test_nothing_keeps_the_port_when_the_command_is_killed(
    project: Any, serve: Any, get: Any, arguments: tuple[str, ...]
) -> None:
    served = serve(*arguments, "--port", "0")
    address = served.wait_for_address()
    get(f"{address}/readyz")

    # Its children write to the same pipe: the end comes when the last of them is gone.
    outcome = served.finish(signal.SIGKILL)

    assert outcome.code == -signal.SIGKILL
    with pytest.raises(urllib.error.URLError):
        get(f"{address}/readyz")


def test_workers_that_would_count_limits_apart_are_not_started(project: Any, backstay: Any) -> None:
    project.main.write_text(
        "from backstay import Settings, create_app, rate_limit\n"
        "app = create_app(Settings())\n"
        "app.post('/login', dependencies=[rate_limit('login:{ip}', limit=5, per='15m')])(lambda: None)\n"
    )

    outcome = backstay("run", "--workers", "3", "--port", "0")

    assert outcome.code == 1
    assert "3 times the limit would be admitted" in outcome.err
    assert "hint: Set BACKSTAY_CACHE__URL=redis://" in outcome.err

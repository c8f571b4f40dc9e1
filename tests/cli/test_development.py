import signal
from typing import Any

import pytest

_SLOW_IMPORT = """
import multiprocessing, time

if multiprocessing.parent_process() is not None:
    print("importing", flush=True)
    time.sleep(3)
"""


def test_the_urls_come_when_the_service_is_up(project: Any, serve: Any, get: Any) -> None:
    served = serve("dev", "--port", "0")
    address = served.wait_for_address()
    served.wait_for("Ctrl-C stops it")

    text = "".join(served.read)
    assert f"tiny answers at {address} (development).\n" in text
    assert f"  documentation  {address}/docs\n  first route    {address}/things\n" in text
    assert f"  readiness      {address}/readyz\n" in text
    for path in ("/docs", "/things", "/readyz"):
        assert get(address + path).status == 200


def test_documentation_that_is_off_is_not_announced(
    project: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_HTTP__DOCS", "false")
    served = serve("dev", "--port", "0")
    served.wait_for("Ctrl-C stops it")

    assert "/docs" not in "".join(served.read)


def test_a_changed_file_starts_the_service_again(project: Any, serve: Any, get: Any) -> None:
    served = serve("dev", "--port", "0")
    address = served.wait_for_address()
    served.wait_for("Ctrl-C stops it")

    project.main.write_text(project.main.read_text().replace("[1, 2]", "[3]"))
    served.wait_for(f"src/{project.package}/main.py changed; starting again.")
    served.wait_for("Finished server process")

    # The socket is open all the time: the request waits for the new process.
    assert get(f"{address}/things").json == [3]


def test_broken_code_is_told_and_mended(project: Any, serve: Any, get: Any) -> None:
    code = project.main.read_text()
    served = serve("dev", "--port", "0")
    address = served.wait_for_address()
    served.wait_for("Ctrl-C stops it")

    project.main.write_text("app = (\n")
    told = served.wait_for("error: ")
    served.wait_for("The service is down until its code changes.")
    project.main.write_text(code)

    assert told == f"error: SyntaxError: '(' was never closed (in src/{project.package}/main.py, line 1)\n"
    assert get(f"{address}/things").json == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_quiet_and_ends_with_0(project: Any, serve: Any, number: int) -> None:
    served = serve("dev", "--port", "0")
    served.wait_for("Ctrl-C stops it")

    outcome = served.finish(number)

    assert outcome.code == 0
    assert "Traceback" not in outcome.out
    assert "error" not in outcome.out.replace("uvicorn.error", "")


@pytest.mark.parametrize("arguments", [("dev",), ("run", "--workers", "2")])
def test_ctrl_c_in_a_terminal_is_quiet_while_processes_start(
    project: Any, serve: Any, arguments: tuple[str, ...]
) -> None:
    project.main.write_text(_SLOW_IMPORT + project.main.read_text())
    served = serve(*arguments, "--port", "0")
    served.wait_for("importing")

    served.interrupt()

    outcome = served.wait()
    assert outcome.code == 0
    assert "KeyboardInterrupt" not in outcome.out


def test_broken_code_at_the_first_start_ends_with_1(project: Any, backstay_process: Any) -> None:
    project.main.write_text("raise RuntimeError('no')\n")

    outcome = backstay_process("dev")

    assert outcome.code == 1
    assert outcome.err == (
        f"error: RuntimeError: no (in src/{project.package}/main.py, line 1)\n"
        "hint: --traceback shows the whole way there.\n"
    )


@pytest.mark.parametrize("command", ["dev", "run"])
def test_a_wrong_setting_is_one_message(
    project: Any, backstay_process: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("TINY_SERVER__PRT", "1")

    outcome = backstay_process(command)

    assert outcome.code == 1
    assert outcome.err.startswith("error: TINY_SERVER__PRT")
    assert "Did you mean 'TINY_SERVER__PORT'?" in outcome.err
    assert "Traceback" not in outcome.err


def test_while_the_welcome_is_written_requests_are_served(project: Any, serve: Any) -> None:
    project.main.write_text(
        project.main.read_text()
        + """
import asyncio
import sys

def slow():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        print("nobody waits", file=sys.stderr)
    return {"paths": {}}

app.openapi = slow
"""
    )
    served = serve("dev", "--port", "0")

    served.wait_for("nobody waits")


def test_an_openapi_document_that_cannot_be_made_does_not_stop_the_service(project: Any, serve: Any) -> None:
    project.main.write_text(
        project.main.read_text() + "\n\ndef broken():\n    raise ValueError\n\n\napp.openapi = broken\n"
    )
    served = serve("dev", "--port", "0")
    served.wait_for("The OpenAPI document cannot be made.")

    served.wait_for("Ctrl-C stops it")

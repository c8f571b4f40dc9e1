import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

_FILE = """
from datetime import timedelta
from pathlib import Path

from backstay.load import ServiceUser, Threshold
from locust import constant, task

thresholds = {{"GET /things": Threshold(p95=timedelta(milliseconds={limit}))}}


class Somebody(ServiceUser):
    wait_time = constant(0.05)

    def on_start(self):
        print("somebody came", flush=True)

    @task
    def look(self):
        self.client.get("/things")
"""


@pytest.fixture
def locustfile(project: Any) -> Path:
    path = Path(project.folder / "locustfile.py")
    path.write_text(_FILE.format(limit=10_000))
    return path


class _Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        metrics = self.server.metrics  # type: ignore[attr-defined]  # ours
        self.send_response(404 if self.path == "/metrics" and metrics is None else 200)
        self.end_headers()
        self.wfile.write((metrics or "").encode())
        if self.path == "/things":
            self.server.has_answered.set()  # type: ignore[attr-defined]  # ours

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.keys.append(self.headers["Idempotency-Key"])  # type: ignore[attr-defined]  # ours
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[HTTPServer]:
    """Somebody who answers whatever is asked."""
    with HTTPServer(("127.0.0.1", 0), _Answering) as server:
        server.has_answered = Event()  # type: ignore[attr-defined]  # ours
        server.metrics = None  # type: ignore[attr-defined]  # ours
        server.keys = []  # type: ignore[attr-defined]  # ours
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def address(listener: HTTPServer) -> str:
    return f"http://127.0.0.1:{listener.server_address[1]}"


def test_a_run_shows_each_route_and_its_exit_code_tells_whether_thresholds_were_met(
    backstay_process: Any, locustfile: Path, listener: Any, address: str
) -> None:
    short = ("load", "--against", address, "--duration", "1s", "--users", "3")
    met = backstay_process(*short)
    locustfile.write_text(_FILE.format(limit=0.001))
    listener.metrics = "backstay_db_queries_total 7\n"
    missed = backstay_process(*short, "--json", "--report", "missed.html")

    titles, row = met.out.splitlines()
    assert met.code == 0
    assert titles.split() == ["route", "requests", "p50", "p95", "limit", "errors", "verdict"]
    assert row.startswith("GET /things ")
    assert row.endswith("  10,000 ms       0  met")
    assert f"failed. The report: {locustfile.parent}/build/load.html" in met.err
    assert "What the service did meanwhile is not known: its setting telemetry.metrics is off.\n" in met.err
    assert "<html" in (locustfile.parent / "build/load.html").read_text()
    outcome = json.loads(missed.out)
    assert (missed.code, outcome["is_met"]) == (1, False)
    assert outcome["verdicts"][0]["shortcomings"] == ["too slow"]
    assert outcome["server"]["queries"] == 0
    assert "The service meanwhile: 0 commits, " in missed.err
    assert outcome["report"] == str(locustfile.parent / "missed.html")


def test_a_request_to_a_route_that_takes_a_key_has_one(
    backstay_process: Any, project: Any, locustfile: Path, listener: Any, address: str
) -> None:
    locustfile.write_text(_FILE.format(limit=10_000).replace('.get("/things")', '.post("/things", json={})'))
    source = project.main.read_text().replace("create_app, public", "create_app, idempotent, public")
    marked = 'router.post("/things", dependencies=[idempotent()])(list_things)'
    project.main.write_text(source.replace("app = create_app", f"{marked}\napp = create_app"))

    backstay_process("load", "--against", address, "--users", "1", "--duration", "1s")

    assert len(set(listener.keys)) == len(listener.keys) > 1
    assert all(listener.keys)


def test_the_first_interrupt_ends_a_run_with_what_was_measured(
    serve: Any, locustfile: Path, address: str
) -> None:
    load = serve("load", "--against", address, "--duration", "90s", "--users", "1")
    load.wait_for("somebody came")
    load.interrupt()
    outcome = load.wait()

    assert outcome.code == 130
    assert "GET /things " in outcome.out
    assert " of 90 s, " in outcome.out
    assert "Traceback" not in outcome.out


def test_nothing_goes_on_when_the_command_is_killed(serve: Any, locustfile: Path, address: str) -> None:
    locustfile.write_text(_FILE.format(limit=1).replace('"somebody came"', "__import__('os').getpid()"))
    load = serve("load", "--against", address, "--duration", "90s", "--users", "1")
    generator = os.pidfd_open(int(load.process.stdout.readline()))
    load.finish(signal.SIGKILL)

    ended, _, _ = select.select([generator], [], [], 30)
    os.close(generator)
    assert ended


def test_a_terminal_shows_a_table_that_the_result_replaces(
    project: Any, locustfile: Path, address: str
) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "backstay", "load", "--against", address, "--duration", "2s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, stdin=end) as process:
        os.close(end)
        shown = b"".join(iter(lambda: _read(terminal), b"")).decode()
        out = process.stdout.read().decode() if process.stdout else ""
    os.close(terminal)

    assert process.returncode == 0
    assert f"of 2 s at {address}: " in shown
    assert "per second" in shown
    assert "somebody came" in shown
    assert "GET /things" in shown
    assert out.startswith("route")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody has the other end
        return b""


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_a_run_from_locust_s_page_goes_to_the_target_and_nowhere_else(
    serve: Any, locustfile: Path, listener: Any, address: str, free_port: int
) -> None:
    load = serve("load", "--web", "--web-port", str(free_port), "--against", address)
    page = load.wait_for("Locust's page is at").split()[4].rstrip(".")
    _post(f"{page}/swarm", "user_count=1&spawn_rate=1&host=http://127.0.0.1:1")
    assert listener.has_answered.wait(30)
    outcome = load.finish(signal.SIGINT)

    assert outcome.code == 0
    assert "; 0 failed." in outcome.out


def _post(url: str, form: str) -> None:
    # The page is announced while the process that serves it starts.
    while True:
        try:
            urllib.request.urlopen(url, data=form.encode(), timeout=10).close()  # noqa: S310  our own
        except ConnectionRefusedError:
            continue
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
        else:
            return


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            ("--against", "http://203.0.113.7"),
            "203.0.113.7 is another machine, and a load test may take down what it is pointed at.",
            "If it is yours to load, name it twice: --against http://203.0.113.7 --allow-remote 203.0.113.7",
        ),
        (
            ("--against", "http://203.0.113.7", "--allow-remote", "203.0.113.8"),
            "203.0.113.7 is another machine, and a load test may take down what it is pointed at.",
            "If it is yours to load, name it twice: --against http://203.0.113.7 --allow-remote 203.0.113.7",
        ),
        (
            ("--against", "localhost:8000"),
            "localhost:8000 is not a URL.",
            "Write it like --against http://localhost:8000",
        ),
        (
            ("--against", "http://127.0.0.1:99999"),
            "http://127.0.0.1:99999 is not a URL.",
            "Write it like --against http://127.0.0.1:8000",
        ),
        (
            ("--against", "http://ada:hunter2@127.0.0.1"),
            "The URL of a load test has nothing but a host, a port and a path.",
            "Write it like --against http://127.0.0.1",
        ),
        (
            ("--duration", "5x"),
            "Invalid value for '--duration': 5x is no duration; write it like 60s or 5m.",
            "backstay load --help",
        ),
        (
            ("--duration", "10ms"),
            "Invalid value for '--duration': 10ms is too short; a run takes at least 1s.",
            "backstay load --help",
        ),
    ],
)
def test_misuse_ends_with_2_and_says_what_to_write(
    backstay: Any, locustfile: Path, options: tuple[str, ...], message: str, hint: str
) -> None:
    outcome = backstay("load", *options)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"error: {message}\nhint: {hint}\n"


def test_a_service_on_any_free_port_has_to_be_named(
    backstay: Any, locustfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_SERVER__PORT", "0")
    outcome = backstay("load")

    assert outcome.code == 2
    assert "--against http://127.0.0.1:8000" in outcome.err


@pytest.mark.parametrize(
    ("variables", "options", "url", "hint"),
    [
        ({}, (), "http://127.0.0.1:1", "Start the service in another terminal: backstay run"),
        (
            {"TINY_SERVER__HOST": "0.0.0.0"},  # noqa: S104  not bound
            (),
            "http://127.0.0.1:1",
            "Start the service in another terminal: backstay run",
        ),
        (
            {},
            ("--against", "http://nowhere.invalid", "--allow-remote", "nowhere.invalid"),
            "http://nowhere.invalid",
            "Check the address, and that the service runs.",
        ),
    ],
)
def test_a_service_that_does_not_answer_is_told_before_the_start(
    backstay: Any,
    locustfile: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    options: tuple[str, ...],
    url: str,
    hint: str,
) -> None:
    for name, value in ({"TINY_SERVER__PORT": "1"} | variables).items():
        monkeypatch.setenv(name, value)
    outcome = backstay("load", *options)

    assert outcome.code == 3
    assert outcome.err == f"error: Nothing answers at {url}.\nhint: {hint}\n"


def test_a_project_without_a_locustfile_is_told_what_it_is_for(backstay: Any, project: Any) -> None:
    outcome = backstay("load")

    assert outcome.code == 3
    assert outcome.err.startswith(f"error: There is no locustfile.py in {project.folder}.\nhint: ")


def test_without_locust_it_says_how_to_install_it(
    backstay: Any, locustfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backstay.cli.load.find_spec", lambda _: None)
    outcome = backstay("load")

    assert outcome.code == 3
    assert outcome.err == (
        "error: Load tests need Locust, which is not installed.\nhint: pip install 'backstay[load]'\n"
    )


def test_a_broken_locustfile_is_one_message_and_its_traceback_comes_on_demand(
    backstay: Any, locustfile: Path, address: str
) -> None:
    locustfile.write_text("\nimport nowhere_at_all\n")
    short = backstay("load", "--against", address)
    long = backstay("load", "--against", address, "--traceback")

    message = (
        "error: locustfile.py cannot be imported: "
        "ModuleNotFoundError: No module named 'nowhere_at_all' (in locustfile.py, line 2).\n"
    )
    assert (short.code, short.err) == (3, message)
    assert long.err.startswith("Traceback (most recent call last):")
    assert long.err.endswith(message)


def test_a_process_that_dies_is_told(backstay: Any, locustfile: Path, address: str) -> None:
    locustfile.write_text("import os, signal\n\nos.kill(os.getpid(), signal.SIGKILL)\n")
    outcome = backstay("load", "--against", address)

    assert outcome.code == 3
    assert outcome.err == (
        "error: The process that makes the load ended with code -9 before it was done.\n"
        "hint: What it wrote stands above.\n"
    )


def test_a_taken_port_or_a_report_that_cannot_be_written_is_told_before_the_start(
    backstay: Any, locustfile: Path, address: str
) -> None:
    port = address.rpartition(":")[2]
    web = backstay("load", "--against", address, "--web", "--web-port", port)
    report = backstay("load", "--against", address, "--report", str(locustfile.parent))

    assert (web.code, report.code) == (3, 3)
    assert web.err.startswith(f"error: Port {port} of 127.0.0.1 cannot be used for Locust's page: Address")
    assert report.err == (
        f"error: The report cannot be written to {locustfile.parent}: Is a directory.\n"
        "hint: Name another file: --report PATH\n"
    )

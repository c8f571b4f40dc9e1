import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from backstay.load.messages import Message, Plan, read_message, write_plan
from backstay.load.routes import Route

_DEADLINE_SECONDS = 60

ROUTES = (
    Route("GET", "/things/{thing_id}", r"^/things/(?P<thing_id>[^/]+)$"),
    Route("GET", "/broken/{thing_id}", r"^/broken/(?P<thing_id>[^/]+)$"),
    Route("POST", "/things", r"^/things$"),
    Route("POST", "/orders", r"^/orders$", takes_key=True),
)


@dataclass
class FakeService:
    """Answers by HTTP/1.1: `/broken/...` with a problem, anything else with JSON."""

    url: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    metrics: str | None = None
    authorization: list[str | None] = field(default_factory=list)


@pytest.fixture
def service() -> Iterator[FakeService]:
    service = FakeService()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            service.requests.append((self.command, self.path, dict(self.headers)))
            service.connections.add(self.client_address[1])
            if self.path == "/metrics":
                service.authorization.append(self.headers["Authorization"])
                status = 404 if service.metrics is None else 200
                self.answer(status, "text/plain", (service.metrics or "").encode())
            elif self.path.startswith("/broken/html"):
                self.answer(502, "text/html", b"<p>secret</p>")
            elif self.path.startswith("/broken/odd"):
                self.answer(500, "application/problem+json", json.dumps({"code": "<a secret>"}).encode())
            elif self.path.startswith("/broken"):
                problem = {"code": "unavailable", "detail": "a secret", "status": 503}
                self.answer(503, "application/problem+json", json.dumps(problem).encode())
            else:
                self.answer(200, "application/json", b'{"thing": 1}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def answer(self, status: int, content_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield service
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Generated:
    """What the process that makes the load said."""

    code: int
    messages: list[Message]
    err: str

    @property
    def last(self) -> Any:
        return self.messages[-1]


Generate = Callable[..., Generated]


@pytest.fixture
def generate(tmp_path: Path, service: FakeService) -> Generate:
    """Runs a locustfile in a process of its own."""

    def run(locustfile: str, **changes: Any) -> Generated:
        path = tmp_path / "locustfile.py"
        path.write_text(locustfile)
        plan: dict[str, Any] = {
            "locustfile": path,
            "import_folder": tmp_path / "src",
            "target": service.url,
            "routes": ROUTES,
            "request_id_header": "X-Request-ID",
            "users": 2,
            "spawn_rate": 100.0,
            "duration_seconds": 0.5,
            "report": tmp_path / "build" / "load.html",
            "web_port": None,
        }
        done = subprocess.run(
            [sys.executable, "-m", "backstay.load"],
            input=write_plan(Plan(**(plan | changes))),
            capture_output=True,
            timeout=_DEADLINE_SECONDS,
            check=False,
            env=os.environ | {"PYTHONWARNINGS": "error::UserWarning"},
        )
        messages = [read_message(line) for line in done.stdout.splitlines()]
        return Generated(done.returncode, messages, done.stderr.decode())

    return run

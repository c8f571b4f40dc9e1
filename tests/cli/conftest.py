import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from threading import Timer
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy

from backstay.cli import main

_NO_TABLES = sqlalchemy.MetaData()
_DEADLINE_SECONDS = 90
_STOP_SECONDS = 10

_APP = """
from backstay import Settings, SettingsConfigDict, create_app, public
from fastapi import APIRouter


class TinySettings(Settings):
    model_config = SettingsConfigDict(env_prefix="TINY_")
    name: str = "tiny"


router = APIRouter()


@router.get("/things")
async def list_things() -> list[int]:
    return [1, 2]


app = create_app(TinySettings(), routers=[router], dependencies=[public])
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class TinyProject:
    """A service of one module; its package has a name of its own: tests in one process do not meet."""

    folder: Path
    package: str

    @property
    def main(self) -> Path:
        return self.folder / "src" / self.package / "main.py"

    @property
    def pyproject(self) -> Path:
        return self.folder / "pyproject.toml"

    def name_app(self, reference: str) -> None:
        self.pyproject.write_text(f'[project]\nname = "tiny"\n\n[tool.backstay]\napp = "{reference}"\n')

    def add_migration(self, revision: str, *, after: str | None, statement: str) -> None:
        versions = self.folder / "migrations" / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        (versions / f"{revision}.py").write_text(
            f'"""Step {revision}."""\n'
            f'from alembic import op\n\nrevision = "{revision}"\ndown_revision = {after!r}\n\n\n'
            f"def upgrade() -> None:\n    op.execute({statement!r})\n\n\n"
            f"def downgrade() -> None:\n    op.execute('DROP TABLE {revision}')\n"
        )


@pytest.fixture
def metadata() -> sqlalchemy.MetaData:
    """Databases start empty."""
    return _NO_TABLES


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyProject]:
    """A service in the working directory."""
    project = TinyProject(tmp_path / "tiny", f"tiny_{uuid4().hex[:8]}")
    project.main.parent.mkdir(parents=True)
    (project.main.parent / "__init__.py").touch()
    project.main.write_text(_APP)
    project.name_app(f"{project.package}.main:app")
    for variable in [name for name in os.environ if name.startswith("TINY_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield project
    for module in [name for name in sys.modules if name.split(".")[0] == project.package]:
        del sys.modules[module]


@pytest.fixture
def backstay(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command in this process."""

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def backstay_process() -> Callable[..., Outcome]:
    """Runs a command in a process of its own, in the working directory."""

    def run(*arguments: str) -> Outcome:
        done = subprocess.run(
            _command(*arguments), capture_output=True, text=True, timeout=_DEADLINE_SECONDS, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


class Served:
    """A serving command in a process of its own; its output is read line by line as it comes."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            _command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        self._watchdog = Timer(_DEADLINE_SECONDS, self.process.kill)
        self._watchdog.start()
        self.read: list[str] = []

    def wait_for(self, words: str) -> str:
        """Read up to the line with these words, and return it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.read.append(line)
            if words in line:
                return line
        raise AssertionError(f"{words!r} never came:\n{''.join(self.read)}")

    def wait_for_address(self) -> str:
        """Return the URL that the command serves at."""
        line = self.wait_for("http://127.0.0.1:")
        return "http://" + line.partition("http://")[2].split()[0].rstrip('",')

    def finish(self, number: int) -> Outcome:
        """Send a signal, and return the exit code and everything that was written."""
        self.process.send_signal(number)
        return self.wait()

    def interrupt(self) -> None:
        """Do what Ctrl-C does: interrupt every process of the group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> Outcome:
        """Wait for the end, and return the exit code and everything that was written."""
        assert self.process.stdout is not None
        self.read += self.process.stdout.readlines()
        return Outcome(self.process.wait(), "".join(self.read), "")

    def close(self) -> None:
        """End it, with all that it started."""
        self._watchdog.cancel()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts serving commands, and ends them with the test."""
    started: list[Served] = []

    def start(*arguments: str) -> Served:
        started.append(Served(*arguments))
        return started[-1]

    yield start
    for served in started:
        served.close()


@dataclass(frozen=True)
class Answer:
    """What came back for a GET."""

    status: int
    headers: Message
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@pytest.fixture
def get() -> Callable[..., Answer]:
    """Sends a GET."""

    def send(url: str, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, headers=named)  # noqa: S310  an address of our own
        with urllib.request.urlopen(request, timeout=_DEADLINE_SECONDS) as response:  # noqa: S310
            return Answer(response.status, response.headers, response.read())

    return send


def _command(*arguments: str) -> list[Any]:
    return [sys.executable, "-m", "backstay", *arguments]

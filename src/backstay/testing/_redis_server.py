"""A Redis of the tests' own, started from the binary of this machine."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["RedisServer", "answers"]

_START_SECONDS: Final = 20.0


def answers(host: str, port: int) -> bool:
    """Return whether a Redis answers there."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(5) in (b"+PONG", b"-NOAU")
    except OSError:
        return False


class RedisServer:
    """A server on a port of its own, which may be stopped, killed and started again.

    Args:
        directory: Where it keeps its snapshot.
        *options: Further arguments of `redis-server`.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.port = _free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_available() -> bool:
        """Return whether this machine has the binary."""
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.directory), "--appendonly", "no", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603  our own arguments
        ends_at = time.monotonic() + _START_SECONDS
        while not answers("127.0.0.1", self.port):
            if self._process.poll() is not None or time.monotonic() > ends_at:
                raise RuntimeError("redis-server did not start.")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it hang: it accepts connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

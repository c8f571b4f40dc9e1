"""`backstay dev`: this process watches the code, another one imports it and serves."""

import signal
import socket
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from threading import Event
from typing import Any

from watchfiles import PythonFilter, watch

from backstay.cli.messages import say
from backstay.cli.processes import sparing_interrupts
from backstay.cli.project import Project, enter_project

__all__ = ["serve_development"]

_LOOK_MILLISECONDS = 200
_STOP_SECONDS = 5
_spawn = get_context("spawn")


def serve_development(app: str | None, *, host: str | None, port: int | None, traceback: bool) -> int:
    """Serve until Ctrl-C or SIGTERM, and start again when a Python file of the service changes.

    The address is taken once: another one needs a new start.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        host: Instead of the setting `server.host`.
        port: Instead of the setting `server.port`.
        traceback: Show whole tracebacks of what fails to start.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 when the first start failed.

    Raises:
        ConfigurationError: There is no project here, or it does not say what its app is.
    """
    return _Reloader(enter_project(app), host=host, port=port, traceback=traceback).serve()


class _Reloader:
    """Keeps one serving process, and its socket: between two of them a browser waits, and is not refused."""

    def __init__(self, project: Project, *, host: str | None, port: int | None, traceback: bool) -> None:
        self._project = project
        self._options = {"host": host, "port": port, "traceback": traceback}
        self._stopping = Event()
        self._is_down = False
        self._listener: socket.socket | None = None
        self._inbox, self._outbox = _spawn.Pipe(duplex=False)

    def serve(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stopping.set())
        process = self._start()
        for changes in watch(
            self._project.source_folder,
            watch_filter=PythonFilter(),
            stop_event=self._stopping,
            rust_timeout=_LOOK_MILLISECONDS,
            yield_on_timeout=True,
            debounce=_LOOK_MILLISECONDS,
        ):
            self._keep_socket()
            if changes:
                self._tell_change({path for _, path in changes})
                _stop(process)
                process = self._start()
            elif not process.is_alive():
                if self._listener is None:
                    return 1
                self._tell_it_is_down()
        _stop(process)
        return 0

    def _start(self) -> SpawnProcess:
        self._is_down = False
        process = _spawn.Process(
            target=_serve, args=(self._project, self._listener, self._outbox), kwargs=self._options
        )
        with sparing_interrupts():
            process.start()
        return process

    def _keep_socket(self) -> None:
        """Take the socket over from the process that serves, once its service has started."""
        if self._listener is not None or not self._inbox.poll():
            return
        # A process that is gone cannot hand it over; the next one makes a new one.
        with suppress(OSError, EOFError):
            self._listener = self._inbox.recv()

    def _tell_it_is_down(self) -> None:
        if not self._is_down:
            say("The service is down until its code changes.")
        self._is_down = True

    def _tell_change(self, paths: set[str]) -> None:
        names = sorted(path.removeprefix(f"{self._project.folder}/") for path in paths)
        say(f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} changed; starting again.")


def _stop(process: SpawnProcess) -> None:
    process.terminate()
    process.join(_STOP_SECONDS)
    process.kill()
    process.join()


def _serve(project: Project, listener: socket.socket | None, outbox: Connection, **options: Any) -> None:
    # What serves is imported where it serves, so that the watching process starts at once.
    from backstay.cli.development_server import serve_project  # noqa: PLC0415

    serve_project(project, listener, outbox, **options)

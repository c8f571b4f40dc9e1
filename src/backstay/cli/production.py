"""`backstay run`: one or many processes, a graceful stop, and an honest exit code."""

import logging
import multiprocessing
import os
import signal
import socket
from contextlib import nullcontext

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from backstay.app._caching import require_shared_cache
from backstay.app._limited_routes import require_shared_counters
from backstay.app.explanation import variable_name
from backstay.app.observation import serves_metrics
from backstay.cli.processes import sparing_interrupts
from backstay.cli.project import LoadedApp, enter_project, load_app
from backstay.cli.serving import AppFactory, bind, describe_address, make_config
from backstay.telemetry import counting_together

__all__ = ["serve_production"]

_LOOK_SECONDS = 0.1

_logger = logging.getLogger("backstay.cli")


def serve_production(
    app: str | None, *, host: str | None, port: int | None, workers: int | None, traceback: bool
) -> int:
    """Serve until SIGTERM or SIGINT; then finish the accepted requests, within the setting `server.grace`.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        host: Instead of the setting `server.host`.
        port: Instead of the setting `server.port`.
        workers: Instead of the setting `server.workers`.
        traceback: Show the traceback of a failed start.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 after a failed start or stop.

    Raises:
        ConfigurationError: The app cannot be found or imported, or the address cannot be used.
    """
    loaded = load_app(enter_project(app))
    settings = loaded.settings
    loaded.installation.configure_logging()
    count = workers or settings.server.workers
    require_shared_counters(loaded.asgi, settings, workers=count)
    require_shared_cache(settings, workers=count)
    if workers is not None:
        os.environ[variable_name(settings, "server.workers")] = str(workers)  # each worker reads it
    listener = bind(settings, host=host, port=port)
    first = multiprocessing.get_context("spawn").Lock() if count > 1 else None
    factory = AppFactory(loaded.project, traceback=traceback, first=first)
    config = make_config(factory, settings, grace=settings.server.grace, workers=count)
    supervisor = _Workers(config, [listener]) if count > 1 else _Alone(config, listener)
    _log_start(loaded, listener, count)
    with counting_together() if count > 1 and serves_metrics(settings) else nullcontext():
        return supervisor.serve()


def _log_start(loaded: LoadedApp, listener: socket.socket, workers: int) -> None:
    settings = loaded.settings
    _logger.info(
        "Serving %s at %s with %d worker%s.",
        settings.name,
        describe_address(listener),
        workers,
        "" if workers == 1 else "s",
    )
    if settings.environment != "production":
        _logger.warning(
            "The environment is %s; set %s=production where the service is exposed.",
            settings.environment,
            variable_name(settings, "environment"),
        )


class _Alone:
    """A server in this very process.

    A signal during the start is kept until the server looks. Uvicorn raises it again at the very end, for its
    caller to die of; the same handler takes it, so that the exit code tells how the stop went.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        self._server = uvicorn.Server(config)
        self._listener = listener
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._server.handle_exit)

    def serve(self) -> int:
        """Serve until told to stop; return the exit code."""
        try:
            self._server.run(sockets=[self._listener])
        except SystemExit:
            return 1
        return 1 if self._server.lifespan.should_exit else 0


class _Workers(Multiprocess):
    """Uvicorn's supervisor, with an exit code and without a door that stays open while workers leave."""

    def serve(self) -> int:
        """Serve until told to stop; return the exit code."""
        self.run()
        return 1 if any(process.exitcode == STARTUP_FAILURE for process in self.processes) else 0

    def init_processes(self) -> None:
        """Start the workers, and keep only our end of their pipes: one that dies is noticed at once."""
        with sparing_interrupts():
            super().init_processes()
        for process in self.processes:
            process.child_conn.close()

    def terminate_all(self) -> None:
        """Close the socket first: connections that nobody will accept are refused, not left hanging."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def join_all(self) -> None:
        """Wait for the workers to end; a signal that comes meanwhile is for them."""
        for process in self.processes:
            while process.process.is_alive():
                process.process.join(_LOOK_SECONDS)
                if self.signal_queue:
                    self.signal_queue.clear()
                    self._tell_all()

    def _tell_all(self) -> None:
        for process in self.processes:
            if process.process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)

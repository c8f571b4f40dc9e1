"""The process of `backstay dev` that serves: it is replaced when the code changes."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection

import uvicorn
from fastapi import FastAPI

from backstay.app.explanation import parts
from backstay.cli.messages import say, write_error
from backstay.cli.project import LoadedApp, Project, load_app
from backstay.cli.serving import AppFactory, bind, describe_address, make_config

__all__ = ["serve_project"]

_GRACE = timedelta(seconds=2)
"""Time that open requests have when the code changed: whoever develops waits for it."""

_logger = logging.getLogger("backstay.cli")


def serve_project(  # noqa: PLR0913  what the watching process knows
    project: Project,
    listener: socket.socket | None,
    outbox: Connection,
    *,
    host: str | None,
    port: int | None,
    traceback: bool,
) -> None:
    """Serve until SIGTERM, and exit with 1 after a message when the app cannot be started.

    Args:
        project: Where the app is.
        listener: The socket of the process before; None for the first one, which makes it.
        outbox: Where the first process sends its socket once the app has started.
        host: Instead of the setting `server.host`.
        port: Instead of the setting `server.port`.
        traceback: Show the traceback of a failed start.
    """
    try:
        loaded = load_app(project)
        loaded.installation.configure_logging()
        loaded.installation.stopping.limit_grace(_GRACE)
        is_first = listener is None
        listener = listener or bind(loaded.settings, host=host, port=port)
        config = make_config(AppFactory(project, traceback=traceback), loaded.settings, grace=_GRACE)
        server = _Server(config, lambda: _welcome(loaded, listener, outbox) if is_first else None)
        server.run(sockets=[listener])
    except Exception as error:  # noqa: BLE001  the service's own code may raise anything; it is told
        write_error(error, traceback=traceback)
        sys.exit(1)


def _welcome(loaded: LoadedApp, listener: socket.socket, outbox: Connection) -> None:
    outbox.send(listener)
    address = describe_address(listener)
    lines = [
        f"{loaded.settings.name} answers at {address} ({loaded.settings.environment}).",
        *(f"  {title:<14} {address}{path}" for title, path in _find_places(loaded)),
        f"Ctrl-C stops it; a change in {loaded.project.source_folder.name} starts it again.",
    ]
    say("\n".join(lines))


class _Server(uvicorn.Server):
    """Calls back once the service answers."""

    def __init__(self, config: uvicorn.Config, call: Callable[[], None]) -> None:
        super().__init__(config)
        self._call = call

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call back, in a thread: requests are answered meanwhile."""
        await super().startup(sockets)
        await asyncio.to_thread(self._call)


def _find_places(loaded: LoadedApp) -> list[tuple[str, str]]:
    has_pages = any(
        part.name == "documentation" and part.is_on
        for part in parts(loaded.settings, has_policy=loaded.has_policy)
    )
    pages = [("documentation", "/docs")] if has_pages else []
    return [*pages, *_find_first_route(loaded.asgi), ("readiness", "/readyz")]


def _find_first_route(app: FastAPI) -> list[tuple[str, str]]:
    """Return the first address that a browser can open as it is."""
    try:
        paths: dict[str, dict[str, object]] = app.openapi()["paths"]
    except Exception:
        _logger.warning("The OpenAPI document cannot be made.", exc_info=True)
        return []
    return [("first route", path) for path, item in paths.items() if "get" in item and "{" not in path][:1]

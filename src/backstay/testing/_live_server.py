"""A real Uvicorn on a free port, on a thread and an event loop of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from backstay.server import HttpProtocol

__all__ = ["serve"]

_START_SECONDS = 30
_STOP_SECONDS = 10


class _Server(uvicorn.Server):
    """Says when it serves, or why it does not."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.decided = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.decided.set()

    def run_until_stopped(self, listener: socket.socket) -> None:
        try:
            self.run(sockets=[listener])
        except SystemExit:  # Uvicorn's word for a lifespan that failed; the log has the reason
            pass
        finally:
            self.decided.set()


@contextmanager
def serve(app: ASGIApp) -> Iterator[str]:
    """Serve the app while the block runs; yields the address. The requests under way are answered at the end.

    Raises:
        RuntimeError: The app did not start or did not stop in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=HttpProtocol,
                lifespan="on",
                server_header=False,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=_STOP_SECONDS // 2,
            )
        )
        thread = threading.Thread(
            target=server.run_until_stopped, args=(listener,), name="live-server", daemon=True
        )
        thread.start()
        try:
            if not server.decided.wait(_START_SECONDS) or not server.started:
                raise RuntimeError("The app under test did not start; its log says why.")
            host, port = listener.getsockname()
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)
    if thread.is_alive():
        raise RuntimeError(f"The app under test did not stop within {_STOP_SECONDS} s.")

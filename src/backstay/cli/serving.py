"""What `dev` and `run` share: the address, the app as Uvicorn gets it, and its configuration."""

import errno
import gc
import math
import socket
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.synchronize import Lock

import uvicorn
from starlette.types import Message, Receive, Scope, Send

from backstay.app.explanation import variable_name
from backstay.cli.messages import find_origin, write_error
from backstay.cli.outages import explain_database_error, outlive_drivers
from backstay.cli.processes import stop_with_parent
from backstay.cli.project import LoadedApp, Project, load_app
from backstay.errors import ConfigurationError
from backstay.server import HttpProtocol
from backstay.settings import Settings

__all__ = ["AppFactory", "bind", "describe_address", "make_config"]

_BACKLOG = 2048
"""Connections that wait to be accepted; Uvicorn's own default."""

_ENDING_SECONDS = 5
"""How long after the grace requests that the app itself has ended may take to end."""

_COLLECTED_AT_ONCE = 10_000
"""Objects; when all of them are in use, a collection takes about 2 ms."""

_WORKER_SECONDS = 30
"""How long a worker may import the app, on a busy machine, before it is taken for dead."""


@dataclass(frozen=True, slots=True)
class AppFactory:
    """Makes the app for Uvicorn, in whichever process: imports it, sets up its logs, watches its start.

    Args:
        project: Where the app is.
        traceback: Show the traceback of a failed start.
        first: Held by the first process that tells of a failed start, so that not each of many workers does.
    """

    project: Project
    traceback: bool = False
    first: Lock | None = None

    def __call__(self) -> "_Service":
        """Return the app, imported; called once in each serving process."""
        stop_with_parent()
        loaded = load_app(self.project)
        loaded.installation.configure_logging()
        return _Service(loaded, self)

    def tell(self, error: BaseException, settings: Settings) -> None:
        """Write why the start failed, unless another process did."""
        if self.first is not None and not self.first.acquire(block=False):
            return
        origin = find_origin(error)
        write_error(explain_database_error(origin, settings) or origin, traceback=self.traceback)


class _Service:
    """The app as Uvicorn gets it: a failed start is one message, not a traceback in the middle of the log."""

    def __init__(self, loaded: LoadedApp, factory: AppFactory) -> None:
        self.app = loaded.asgi  # as middlewares call what is inside of them
        self._settings = loaded.settings
        self._factory = factory

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Not async: requests go straight on to the app.
        if scope["type"] == "lifespan":
            return self._live(scope, receive, send)
        return self.app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_all_but_failure(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "lifespan.startup.complete":
                has_started = True
                _spare_what_stays()
            if message["type"] != "lifespan.startup.failed":
                await send(message)

        try:
            await self.app(scope, receive, send_all_but_failure)
        except Exception as error:
            if has_started:
                raise
            self._factory.tell(error, self._settings)
            await outlive_drivers()
            # Only now: Uvicorn leaves as soon as it hears of it.
            await send({"type": "lifespan.startup.failed"})


def _spare_what_stays() -> None:
    """Let garbage collections look only at what comes after the start.

    What the start has made stays until the process ends, and with an ordinary app a walk through it takes
    100 ms. Requests that wait for their callers survive, too, and a look at each 700 objects, Python's
    default, would go through them again and again while others wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AT_ONCE)


def make_config(
    factory: AppFactory, settings: Settings, *, grace: timedelta, workers: int = 1
) -> uvicorn.Config:
    """Return Uvicorn's configuration; the address is that of the socket which it is given."""
    server = settings.server
    return uvicorn.Config(
        factory,
        factory=True,
        interface="asgi3",
        http=HttpProtocol,
        lifespan="on",
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(server.trusted_proxies),
        forwarded_allow_ips=list(server.trusted_proxies),
        root_path=server.root_path,
        timeout_worker_healthcheck=_WORKER_SECONDS,
        timeout_graceful_shutdown=math.ceil(grace.total_seconds()) + _ENDING_SECONDS,
    )


def bind(settings: Settings, *, host: str | None, port: int | None) -> socket.socket:
    """Begin to listen: whoever connects from now on is served once the app has started.

    Args:
        settings: Decide what the options leave open.
        host: Instead of the setting `server.host`.
        port: Instead of the setting `server.port`.

    Raises:
        ConfigurationError: It is taken, not of this machine, or not allowed.
    """
    host = settings.server.host if host is None else host
    port = settings.server.port if port is None else port
    listener: socket.socket | None = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise _explain_address(error, settings, host=host, port=port) from error
    listener.set_inheritable(True)
    return listener


def _explain_address(error: OSError, settings: Settings, *, host: str, port: int) -> ConfigurationError:
    """Return what to tell about an address that cannot be served at."""
    other_port = port + 1 if 1024 <= port < 65535 else 8000
    choose = (
        f"choose another one: --port {other_port}, or {variable_name(settings, 'server.port')}={other_port}."
    )
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(f"Port {port} of {host} is taken.", hint=f"Stop what uses it, or {choose}")
    if error.errno == errno.EACCES:
        return ConfigurationError(
            f"Port {port} of {host} is not allowed to this user; those below 1024 belong to root.",
            hint=choose[0].upper() + choose[1:],
        )
    return ConfigurationError(
        f"The service cannot listen on {host}: {error.strerror or error}.",
        hint=f"Use 127.0.0.1, or 0.0.0.0 for all: --host, or {variable_name(settings, 'server.host')}.",
    )


def describe_address(listener: socket.socket) -> str:
    """Return the URL at which a browser on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  shown, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

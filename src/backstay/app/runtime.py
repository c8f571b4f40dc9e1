"""What a running service holds: settings, database, clients, background tasks.

They are opened together and closed in reverse.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backstay.background import Supervisor
from backstay.cache.cache import Cache, cache_variable
from backstay.cache.limits import Limits, open_limits
from backstay.cache.opening import open_cache
from backstay.db import Database
from backstay.deadline import detached_context
from backstay.errors import UsageError, did_you_mean
from backstay.settings import Settings

if TYPE_CHECKING:
    from backstay.clients import AsyncClient

__all__ = ["Entered", "Runtime", "current_runtime", "open_runtime", "runtime_variable"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """The opened parts of one service."""

    settings: Settings
    database: Database
    background: Supervisor
    limits: Limits
    cache: Cache
    clients: Mapping[str, AsyncClient]

    def client(self, name: str) -> AsyncClient:
        """Return the client that the settings have under this name; the runtime closes it.

        Raises:
            UsageError: They have none.
        """
        if name not in self.clients:
            raise UsageError(f"No setting names a client {name!r}.{did_you_mean(name, self.clients)}")
        return self.clients[name]


runtime_variable: ContextVar[Runtime | None] = ContextVar("backstay.runtime", default=None)


class Entered:
    """Makes a runtime the one that is found here until it is left; cheap, for it is done for each request."""

    __slots__ = ("_cache_token", "_runtime_token")

    def __init__(self, runtime: Runtime | None) -> None:
        self._runtime_token = runtime_variable.set(runtime)
        self._cache_token = cache_variable.set(None if runtime is None else runtime.cache)

    def leave(self) -> None:
        """Let what was found before be found again."""
        runtime_variable.reset(self._runtime_token)
        cache_variable.reset(self._cache_token)


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[Runtime]:
    """Open the parts of a service outside a request: for scripts, commands and tests.

    The same objects serve a running app; `current_runtime()` finds them inside the block.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    background = Supervisor(grace=settings.server.grace, context=detached_context)
    async with (
        open_limits(settings) as limits,
        open_cache(settings, background) as cache,
        _open_clients(settings) as clients,
    ):
        database = Database(settings.database, participants=(cache,))
        if settings.cache.is_in_memory and settings.server.workers > 1 and not database.is_postgresql:
            cache.watch(database.watch_commits().has_changed)
        try:
            async with background:
                runtime = Runtime(settings, database, background, limits, cache, clients)
                cleaning = background.start(limits.keep_clean(), name="backstay.limits")
                entered = Entered(runtime)
                try:
                    yield runtime
                finally:
                    entered.leave()
                    cleaning.cancel()
        finally:
            await database.close()


@asynccontextmanager
async def _open_clients(settings: Settings) -> AsyncIterator[Mapping[str, AsyncClient]]:
    if not settings.clients:
        yield {}
        return
    from backstay.app._outbound import open_clients  # noqa: PLC0415  who calls nobody does not import HTTPX

    async with open_clients(settings) as clients:
        yield clients


def current_runtime() -> Runtime:
    """Return the runtime that this request, command or test runs in.

    Raises:
        UsageError: There is none: the service has not started, or no `open_runtime` block is around the call.
    """
    runtime = runtime_variable.get()
    if runtime is None:
        raise UsageError(
            "No service is running here: start the app's lifespan (`with TestClient(app) as client:`), or "
            "wrap the call in `async with open_runtime(Settings()):`."
        )
    return runtime

"""What a running service holds: settings, database, background tasks; opened together, closed in reverse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from backstay.background import Supervisor
from backstay.cache.limits import Limits, open_limits
from backstay.db import Database
from backstay.errors import UsageError
from backstay.settings import Settings

__all__ = ["Runtime", "current_runtime", "open_runtime", "runtime_variable"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """The opened parts of one service."""

    settings: Settings
    database: Database
    background: Supervisor
    limits: Limits


runtime_variable: ContextVar[Runtime | None] = ContextVar("backstay.runtime", default=None)


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[Runtime]:
    """Open the parts of a service outside a request: for scripts, commands and tests.

    The same objects serve a running app; `current_runtime()` finds them inside the block.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    database = Database(settings.database)
    try:
        async with open_limits(settings) as limits, Supervisor(grace=settings.server.grace) as background:
            runtime = Runtime(settings, database, background, limits)
            cleaning = background.start(limits.keep_clean(), name="backstay.limits")
            token = runtime_variable.set(runtime)
            try:
                yield runtime
            finally:
                runtime_variable.reset(token)
                cleaning.cancel()
    finally:
        await database.close()


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

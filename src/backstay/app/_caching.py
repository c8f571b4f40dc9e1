"""What joins the cache to the database beyond its commits: the outbox, and the commits of other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backstay.app.explanation import variable_name
from backstay.app.runtime import Runtime
from backstay.cache.cache import OUTBOX_TOPIC
from backstay.cache.cached import is_in_use
from backstay.db import Relay, outbox_table
from backstay.db.records import LibraryTables, has_table
from backstay.errors import ConfigurationError
from backstay.settings import Settings

__all__ = ["outbox_tables", "relaying", "require_shared_cache"]


def require_shared_cache(settings: Settings, *, workers: int | None = None) -> None:
    """Do nothing unless several processes would cache values and not hear of each other's changes.

    Args:
        settings: Of the service.
        workers: How many processes serve it, when it is not as `server.workers` says.

    Raises:
        ConfigurationError: They would.
    """
    count = workers or settings.server.workers
    is_watched = settings.database.url.get_secret_value().startswith("sqlite")
    if count == 1 or not settings.cache.is_in_memory or is_watched or not is_in_use():
        return
    url, one = variable_name(settings, "cache.url"), variable_name(settings, "server.workers")
    raise ConfigurationError(
        f"The service has cached functions, and each of the {count} worker processes would have a cache of "
        "its own: none would hear of the others' changes.",
        hint=f"Set {url}=redis://localhost:6379/0, or {one}=1.",
    )


def outbox_tables(settings: Settings) -> LibraryTables:
    """Return the outbox if changes may have to wait in it: for a Redis that the service does without."""
    needs_outbox = not settings.cache.is_in_memory and settings.cache.coherence == "available"
    return (outbox_table,) if needs_outbox else ()


@asynccontextmanager
async def relaying(runtime: Runtime) -> AsyncIterator[None]:
    """Deliver what waits in the outbox while the block runs, and bypass the cache until it is delivered."""
    if not outbox_tables(runtime.settings) or not await has_table(runtime.database, outbox_table):
        yield  # only tests come here without their table: a service has not started then
        return
    relay = Relay(runtime.database, {OUTBOX_TOPIC: runtime.cache.commits.deliver})
    runtime.cache.outbox = relay
    task = runtime.background.start(relay.run(), name="backstay.outbox")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if relay.is_behind:
            await relay.look()

"""How the cache that the settings name is opened and closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from backstay.background import Supervisor
from backstay.cache._memory import MemoryStore
from backstay.cache._store import Store, StoreError
from backstay.cache.cache import Cache
from backstay.settings import Settings

__all__ = ["open_cache"]


@asynccontextmanager
async def open_cache(settings: Settings, background: Supervisor) -> AsyncIterator[Cache]:
    """Open the cache that `settings.cache` names; nothing is connected before its first use.

    Args:
        settings: Of the service.
        background: Runs what an answer need not wait for.
    """
    cache = Cache(
        await _open_store(settings),
        background=background,
        is_strict=settings.cache.coherence == "strict",
        max_value_bytes=settings.cache.max_value_bytes,
        raises_on_undeclared=settings.environment != "production",
    )
    try:
        yield cache
    finally:
        await cache.close()


async def _open_store(settings: Settings) -> Store:
    url = settings.cache.url
    if url is None:
        return MemoryStore(max_bytes=settings.cache.max_memory_bytes)
    from backstay.cache._redis import RedisStore  # noqa: PLC0415  slow to import

    store = RedisStore(
        url.get_secret_value(),
        prefix=f"{settings.cache.prefix or settings.name}:cache",
        timeout=settings.cache.operation_timeout,
    )
    if settings.environment == "test":
        with suppress(StoreError):  # a service starts without its Redis, too
            await store.seed()  # a prefix that nobody has used needs no quarantine
    return store

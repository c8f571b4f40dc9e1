"""What is in a cache, for people who look."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from backstay.cache._memory import MemoryStore
from backstay.cache._store import EVERYTHING
from backstay.cache.cache import Cache
from backstay.transaction import table_tag, unknown_rows_tag

__all__ = ["Entry", "list_entries", "tags_named"]


class Entry(NamedTuple):
    """One entry, valid or not."""

    key: str
    bytes: int
    seconds_left: int


async def list_entries(cache: Cache) -> AsyncIterator[Entry]:
    """Yield the entries of a cache in Redis, in no order.

    Raises:
        StoreError: Redis does not answer.
    """
    if isinstance(cache.store, MemoryStore):
        return
    from backstay.cache._redis import RedisStore  # noqa: PLC0415  slow to import

    assert isinstance(cache.store, RedisStore)  # noqa: S101  there are two
    async for key, size, seconds in cache.store.scan():
        yield Entry(key, size, seconds)


def tags_named(names: Sequence[str], *, everything: bool) -> list[str]:
    """Return the tags of tables, `users`, and of keys, `user:7`."""
    tags = [EVERYTHING] if everything else []
    for name in names:
        if ":" in name:
            tags.append(f"key:{name}")
        else:
            table = table_tag(name)
            tags += (table, unknown_rows_tag(table))
    return tags

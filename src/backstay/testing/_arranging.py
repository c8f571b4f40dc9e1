"""The plugin's own work on databases: on a thread and loop of its own, and unseen by what watches a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["is_arranging", "quietly"]

T = TypeVar("T")

_arranging: ContextVar[bool] = ContextVar("backstay.testing.arranging", default=False)


def is_arranging() -> bool:
    """Return whether the plugin, and not the test, does the present work."""
    return _arranging.get()


async def quietly(work: Callable[[], Awaitable[T]]) -> T:
    """Do the work; no event that it causes reaches a recording."""
    token = _arranging.set(True)
    try:
        return await work()
    finally:
        _arranging.reset(token)

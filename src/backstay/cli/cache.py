"""`backstay cache`: what is in the Redis that the service's settings name."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import typer

from backstay.app.explanation import variable_name
from backstay.app.runtime import open_runtime
from backstay.cache.cache import Cache
from backstay.cache.inspection import Entry, list_entries, tags_named
from backstay.cli.messages import say
from backstay.cli.project import enter_project, load_app
from backstay.errors import ConfigurationError
from backstay.settings import Settings

__all__ = ["forget_values", "show_entries", "show_stats"]


def show_stats(app: str | None) -> None:
    """Write to standard output how many entries there are, and how large they are.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
    """

    async def act(cache: Cache) -> None:
        counts, sizes = Counter[str](), Counter[str]()
        async for entry in list_entries(cache):
            group = entry.key.partition(":")[0].partition("#")[0]
            counts[group] += 1
            sizes[group] += entry.bytes
        for group in sorted(counts):
            typer.echo(f"{group}  {counts[group]:,} entries  {sizes[group]:,} bytes")
        say("Hit ratios are in the metrics: backstay_cache_reads_total.")

    _run(app, act)


def show_entries(app: str | None, *, beginning: str, limit: int) -> None:
    """Write entries to standard output.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        beginning: Of their keys.
        limit: How many at the most.
    """

    async def act(cache: Cache) -> None:
        found: list[Entry] = []
        async for entry in list_entries(cache):
            if entry.key.startswith(beginning):
                found.append(entry)
            if len(found) == limit:
                break
        for entry in sorted(found):
            typer.echo(f"{entry.key}  {entry.bytes:,} bytes  {entry.seconds_left} s")
        if not found:
            say("There are no such entries.")

    _run(app, act)


def forget_values(app: str | None, *, names: list[str], everything: bool) -> None:
    """Make values invalid.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        names: Of tables, or of keys, which have a colon.
        everything: All values.

    Raises:
        ConfigurationError: Nothing is named.
    """
    if not names and not everything:
        raise ConfigurationError(
            "Nothing is named to be forgotten.",
            hint="Name tables or keys, as in: backstay cache forget users",
        )

    async def act(cache: Cache) -> None:
        await cache.commits.forget(tags_named(names, everything=everything))
        say("Forgotten.")

    _run(app, act)


def _run(app: str | None, act: Callable[[Cache], Awaitable[None]]) -> None:
    settings = load_app(enter_project(app)).settings
    _require_redis(settings)
    asyncio.run(_act(settings, act))


def _require_redis(settings: Settings) -> None:
    if settings.cache.is_in_memory:
        raise ConfigurationError(
            "The service keeps its values in the memory of its own process, where no command reaches them.",
            hint=f"Restart it to forget them, or set {variable_name(settings, 'cache.url')} to a Redis.",
        )


async def _act(settings: Settings, act: Callable[[Cache], Awaitable[None]]) -> None:
    async with open_runtime(settings) as runtime:
        await act(runtime.cache)

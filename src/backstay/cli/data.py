"""`backstay db data`: rows changed in batches, on the database that the service's settings name."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from backstay.app.runtime import open_runtime
from backstay.cli.messages import say
from backstay.cli.outages import explain_database_error, outlive_drivers
from backstay.cli.progress import showing_progress
from backstay.cli.project import enter_project, load_app
from backstay.db import Database
from backstay.db.migrations.data import DataMigrations, DataProgress, Rehearsal
from backstay.db.model import Model
from backstay.logging import configure_logging
from backstay.settings import Settings

__all__ = ["run_data_migrations", "show_progress", "write_data_migration"]


def write_data_migration(app: str | None, *, message: str, table: str) -> None:
    """Write a data migration, and its path to standard output.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        message: What it does.
        table: The table whose rows it changes.
    """
    settings = load_app(enter_project(app)).settings
    typer.echo(_find_migrations(settings).write(message, table=table, metadata=Model.metadata))
    say("Say in it what changes in a row, then try it: backstay db data run --dry-run")


def show_progress(app: str | None) -> None:
    """Write to standard output how far each data migration is.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
    """

    async def show(opened: _Opened) -> None:
        found = await opened.migrations.progress(opened.database)
        for line in _align([_cells(progress) for progress in found]):
            typer.echo(line)
        _tell_what_is_next(found, opened.settings)

    _run(app, show)


def _cells(progress: DataProgress) -> tuple[str, ...]:
    rows = f"{progress.rows_done:,} of {progress.rows_total:,} rows"
    return progress.name, progress.state, f"{progress.share:.1%}", rows


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _tell_what_is_next(found: Sequence[DataProgress], settings: Settings) -> None:
    if not found:
        folder = settings.database.migrations / "data"
        say(f'There are no data migrations in {folder}. Write one: backstay db data new "fill x" --table T')
    elif all(progress.state == "done" for progress in found):
        say("All data migrations are done.")
    else:
        say("Run what is left: backstay db data run")


def run_data_migrations(
    app: str | None, *, name: str | None, dry_run: bool, batch_size: int | None, rows_per_second: int | None
) -> int:
    """Run one data migration, or all that are not done, with a bar in a terminal and log lines elsewhere.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        name: Which one; all that are not done when None.
        dry_run: Write what would be done to standard output instead, and keep nothing.
        batch_size: Instead of the setting `migrations.batch_size`.
        rows_per_second: Instead of the setting `migrations.rows_per_second`.

    Returns:
        The exit code: 0, or 130 after Ctrl-C and 143 after SIGTERM.
    """

    async def run(opened: _Opened) -> None:
        names = [name] if name else await _find_unfinished(opened)
        for one in names:
            await (_rehearse(opened, one) if dry_run else _run_one(opened, one))
        if not names:
            say("There is nothing to do: all data migrations are done.")

    return _run(app, run, batch_size=batch_size, rows_per_second=rows_per_second)


async def _find_unfinished(opened: "_Opened") -> list[str]:
    found = await opened.migrations.progress(opened.database)
    return [progress.name for progress in found if progress.state != "done"]


async def _rehearse(opened: "_Opened", name: str) -> None:
    typer.echo(_describe(await opened.migrations.rehearse(opened.database, name)))


def _describe(found: Rehearsal) -> str:
    if not found.batch_rows:
        return f"{found.name}: no rows are left."
    about = "" if found.is_exact else "about "
    batches = "1 batch" if found.batches == 1 else f"{found.batches:,} batches"
    return (
        f"{found.name}: {about}{found.rows:,} rows in {batches}; "
        f"the next one changed {found.batch_changed:,} of {found.batch_rows:,} rows and was rolled back."
    )


async def _run_one(opened: "_Opened", name: str) -> None:
    try:
        with showing_progress() as show:
            done = await opened.migrations.run(opened.database, name, on_progress=show)
    except asyncio.CancelledError:
        say(f"Stopped. What was committed is kept; to go on: backstay db data run {name}")
        raise
    batches = "1 batch" if done.batches_done == 1 else f"{done.batches_done:,} batches"
    say(f"{name}: done; {done.rows_changed:,} of {done.rows_done:,} rows were changed, in {batches}.")


@dataclass(frozen=True, slots=True)
class _Opened:
    settings: Settings
    database: Database
    migrations: DataMigrations


def _run(app: str | None, act: Callable[[_Opened], Coroutine[Any, Any, None]], **options: int | None) -> int:
    settings = load_app(enter_project(app)).settings
    configure_logging(settings.logging, production=settings.environment == "production", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return asyncio.run(_until_signalled(_act(settings, act, options)))


async def _act(
    settings: Settings, act: Callable[[_Opened], Coroutine[Any, Any, None]], options: dict[str, int | None]
) -> None:
    try:
        # The service's own parts: what takes part in its commits takes part in those of the batches.
        async with open_runtime(settings) as runtime:
            await act(_Opened(settings, runtime.database, _find_migrations(settings, **options)))
    except Exception as error:
        await outlive_drivers()
        explained = explain_database_error(error, settings)
        if explained is None:
            raise
        raise explained from error


def _find_migrations(settings: Settings, **options: int | None) -> DataMigrations:
    chosen = {name: value for name, value in options.items() if value is not None}
    configured = settings.migrations
    return DataMigrations(
        settings.database.migrations,
        batch_size=chosen.get("batch_size", configured.batch_size),
        rows_per_second=chosen.get("rows_per_second", configured.rows_per_second),
        attempts=configured.attempts,
    )


async def _until_signalled(work: Coroutine[Any, Any, None]) -> int:
    """Run to the end, or to Ctrl-C or SIGTERM; return the exit code that says which."""
    task, received = asyncio.ensure_future(work), list[int]()

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
    return 0

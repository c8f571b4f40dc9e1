"""`backstay cache`: its commands and their options; what a command does is imported when it runs."""

# ruff: noqa: PLC0415  so that `--help` is quick

from typing import Annotated

import typer

from backstay.cli.messages import reporting
from backstay.cli.options import AppOption, TracebackOption, explain_when_alone

__all__ = ["cache_commands"]

cache_commands = typer.Typer(rich_markup_mode=None)


@cache_commands.callback(invoke_without_command=True)
def _cache(context: typer.Context) -> None:
    """Look at the cached values in Redis, and forget some."""
    explain_when_alone(context)


@cache_commands.command()
def stats(app: AppOption = None, traceback: TracebackOption = False) -> None:
    """Count the entries and their bytes, by the template's first part."""
    from backstay.cli.cache import show_stats

    with reporting(traceback=traceback):
        show_stats(app)


@cache_commands.command()
def show(
    beginning: Annotated[
        str, typer.Argument(help="Only keys that begin so, such as user:.", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at the most.")] = 20,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """List entries: key, bytes, seconds to live."""
    from backstay.cli.cache import show_entries

    with reporting(traceback=traceback):
        show_entries(app, beginning=beginning, limit=limit)


@cache_commands.command()
def forget(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Tables, such as users, or keys, such as user:7.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget all values.")] = False,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Make values invalid: after a change by psql, or by another program."""
    from backstay.cli.cache import forget_values

    with reporting(traceback=traceback):
        forget_values(app, names=names or [], everything=everything)

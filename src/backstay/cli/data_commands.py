"""`backstay db data`: its commands and their options; what a command does is imported when it runs."""

# ruff: noqa: PLC0415  so that `--help` is quick

from typing import Annotated

import typer

from backstay.cli.messages import reporting
from backstay.cli.options import AppOption, TracebackOption

__all__ = ["data_commands"]

data_commands = typer.Typer(rich_markup_mode=None)


@data_commands.callback(invoke_without_command=True)
def _data(context: typer.Context, app: AppOption = None, traceback: TracebackOption = False) -> None:
    """Show how far the data migrations are; write and run them."""
    if context.invoked_subcommand is not None:
        return
    from backstay.cli.data import show_progress

    with reporting(traceback=traceback):
        show_progress(app)


@data_commands.command()
def new(
    message: Annotated[str, typer.Argument(help="What it does.", show_default=False)],
    table: Annotated[str, typer.Option(help="The table whose rows it changes.", show_default=False)],
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Write a data migration."""
    from backstay.cli.data import write_data_migration

    with reporting(traceback=traceback):
        write_data_migration(app, message=message, table=table)


@data_commands.command()
def run(  # noqa: PLR0913, PLR0917  one for each option
    name: Annotated[
        str | None, typer.Argument(help="Which; all that are not done when omitted.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count, try the next batch, and roll it back.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Instead of the setting migrations.batch_size.", min=1, show_default=False),
    ] = None,
    rows_per_second: Annotated[
        int | None,
        typer.Option(help="Instead of the setting migrations.rows_per_second.", min=1, show_default=False),
    ] = None,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Run data migrations, from where they were; Ctrl-C loses nothing."""
    from backstay.cli.data import run_data_migrations

    with reporting(traceback=traceback):
        code = run_data_migrations(
            app, name=name, dry_run=dry_run, batch_size=batch_size, rows_per_second=rows_per_second
        )
        raise typer.Exit(code)

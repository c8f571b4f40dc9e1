"""`backstay db`: its commands and their options; what a command does is imported when it runs."""

# ruff: noqa: PLC0415  so that `--help` is quick

from typing import Annotated

import typer

from backstay.cli.data_commands import data_commands
from backstay.cli.messages import reporting
from backstay.cli.options import AppOption, TracebackOption, explain_when_alone

__all__ = ["database_commands"]

database_commands = typer.Typer(rich_markup_mode=None)
database_commands.add_typer(data_commands, name="data")


@database_commands.callback(invoke_without_command=True)
def _database(context: typer.Context) -> None:
    """Write and run the migrations of the app's database."""
    explain_when_alone(context)


@database_commands.command()
def revision(
    message: Annotated[
        str, typer.Option("--message", "-m", help="What the migration does.", show_default=False)
    ],
    autogenerate: Annotated[
        bool,
        typer.Option(
            "--autogenerate/--empty", help="Write what the models have and the database lacks, or nothing."
        ),
    ] = True,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Write the next migration."""
    from backstay.cli.database import write_revision

    with reporting(traceback=traceback):
        write_revision(app, message=message, autogenerate=autogenerate)


@database_commands.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="Where to go: head, an id, or +1.")] = "head",
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Run the pending migrations."""
    from backstay.cli.database import upgrade as upgrade_database

    with reporting(traceback=traceback):
        upgrade_database(app, revision=revision)


def _refuse_option(value: str) -> str:
    """Refuse what begins like an option and is no number of steps; Click is told to let `-1` pass."""
    if value.startswith("-") and not value[1:].isdigit():
        raise typer.BadParameter(f"{value} is neither an option nor a revision.")
    return value


@database_commands.command(context_settings={"ignore_unknown_options": True})
def downgrade(
    revision: Annotated[
        str,
        typer.Argument(help="Where to go: -1, an id, or base.", show_default=False, callback=_refuse_option),
    ],
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Take migrations back."""
    from backstay.cli.database import downgrade as downgrade_database

    with reporting(traceback=traceback):
        downgrade_database(app, revision=revision)


@database_commands.command()
def history(app: AppOption = None, traceback: TracebackOption = False) -> None:
    """List the migrations, newest first."""
    from backstay.cli.database import show_history

    with reporting(traceback=traceback):
        show_history(app)


@database_commands.command()
def current(app: AppOption = None, traceback: TracebackOption = False) -> None:
    """Show the migration that the database is at."""
    from backstay.cli.database import show_current

    with reporting(traceback=traceback):
        show_current(app)

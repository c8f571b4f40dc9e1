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

SpliceOption = Annotated[
    bool, typer.Option("--splice", help="Allow it to follow what others follow already, beside them.")
]
BranchLabelOption = Annotated[
    str | None,
    typer.Option(metavar="LABEL", help="A name for the branch that begins with it.", show_default=False),
]


@database_commands.callback(invoke_without_command=True)
def _database(context: typer.Context) -> None:
    """Write and run the migrations of the app's database."""
    explain_when_alone(context)


@database_commands.command()
def revision(  # noqa: PLR0913, PLR0917 - a parameter for each option
    message: Annotated[
        str, typer.Option("--message", "-m", help="What the migration does.", show_default=False)
    ],
    autogenerate: Annotated[
        bool,
        typer.Option(
            "--autogenerate/--empty", help="Write what the models have and the database lacks, or nothing."
        ),
    ] = True,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="Drop this table, which no model declares; may be repeated."),
    ] = None,
    head: Annotated[
        str,
        typer.Option(
            metavar="REVISION", help="What it follows: an id, label@head, or base for a branch of its own."
        ),
    ] = "head",
    splice: SpliceOption = False,
    branch_label: BranchLabelOption = None,
    depends_on: Annotated[
        list[str] | None,
        typer.Option(metavar="REVISION", help="What of another branch must run before; may be repeated."),
    ] = None,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Write the next migration."""
    from backstay.cli.database import write_revision

    with reporting(traceback=traceback):
        write_revision(
            app,
            message=message,
            autogenerate=autogenerate,
            drop=drop or (),
            head=head,
            splice=splice,
            branch_label=branch_label,
            depends_on=tuple(depends_on or ()),
        )


@database_commands.command()
def merge(  # noqa: PLR0913, PLR0917 - a parameter for each option
    revisions: Annotated[
        list[str] | None,
        typer.Argument(help="What to join; all heads when none is named.", show_default=False),
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="What the migration does.")] = "merge",
    splice: SpliceOption = False,
    branch_label: BranchLabelOption = None,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Write a migration that joins branches."""
    from backstay.cli.database import merge_revisions

    with reporting(traceback=traceback):
        merge_revisions(
            app, message=message, revisions=revisions or (), splice=splice, branch_label=branch_label
        )


@database_commands.command()
def upgrade(
    revision: Annotated[
        str, typer.Argument(help="Where to go: head, an id, +1, heads, or label@head.")
    ] = "head",
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
        typer.Argument(
            help="Where to go: -1, an id, base, or label@-1.", show_default=False, callback=_refuse_option
        ),
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


@database_commands.command()
def check(app: AppOption = None, traceback: TracebackOption = False) -> None:
    """List what differs between models and database.

    Two heads and pending migrations count too. The exit code is 1 when there is anything to list.
    """
    from backstay.cli.database import check_database

    with reporting(traceback=traceback):
        raise typer.Exit(check_database(app))


@database_commands.command()
def lint(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REVISION|PATH", help="Which to look at; all without any.", show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION", help="Only those that a database at REVISION lacks.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for machines.")] = False,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Say what migrations would do to a busy PostgreSQL, and how to do without.

    No database is asked: upgrade() runs against nothing, and its SQL is read for PostgreSQL, also while
    the service uses SQLite; downgrade() is not looked at. `# allow[rule]: reason` on a call or above it
    allows it. Exits with 1 when there are findings, with 2 when a REVISION or PATH is none.
    """
    from backstay.cli.lint import lint as lint_migrations

    with reporting(traceback=traceback):
        raise typer.Exit(lint_migrations(app, targets=targets or (), since=since, as_json=as_json))

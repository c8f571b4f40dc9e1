"""`backstay db`: the service's migrations, on the database that its settings name."""

import asyncio
import logging
import sys
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typing_extensions import Unpack

from backstay.app.installation import Installation
from backstay.cli.messages import say
from backstay.cli.outages import explain_database_error, outlive_drivers
from backstay.cli.project import enter_project, load_app
from backstay.db import Database
from backstay.db.migrations import MergeOptions, Migrations, PlaceOptions, Revision
from backstay.logging import configure_logging
from backstay.settings import Settings

__all__ = [
    "check_database",
    "downgrade",
    "merge_revisions",
    "show_current",
    "show_history",
    "upgrade",
    "write_revision",
]


def write_revision(
    app: str | None,
    *,
    message: str,
    autogenerate: bool,
    drop: Collection[str] = (),
    **options: Unpack[PlaceOptions],
) -> None:
    """Write the next migration, and its path to standard output.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        message: What it does.
        autogenerate: Write what differs between the models and the database; else leave it empty.
        drop: Tables to drop that no model declares.
        **options: Where it goes in the history; see `Migrations.revision_on`.
    """

    async def write(opened: _Opened) -> None:
        path = await opened.migrations.revision(
            opened.database.engine, message=message, autogenerate=autogenerate, drop=drop, **options
        )
        typer.echo(path)
        say("Read it, then run: backstay db upgrade")

    _run(app, write)


def merge_revisions(
    app: str | None, *, message: str, revisions: Sequence[str], **options: Unpack[MergeOptions]
) -> None:
    """Write a migration that joins branches, and its path to standard output; no database is asked.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        message: What it does.
        revisions: What it joins; all heads when empty.
        **options: See `Migrations.merge`.
    """
    migrations = load_app(enter_project(app)).installation.migrations
    typer.echo(migrations.merge(message=message, revisions=revisions, **options))
    say("Run: backstay db upgrade")


def check_database(app: str | None) -> int:
    """Write what differs between models, migrations and database to standard output, one line each.

    Returns:
        The exit code: 0 when they agree, else 1.
    """
    findings: list[str] = []

    async def check(opened: _Opened) -> None:
        findings.extend(await opened.migrations.check(opened.database.engine))

    _run(app, check)
    for finding in findings:
        typer.echo(finding)
    if not findings:
        say("Models, migrations and database agree.")
        return 0
    say(f"hint: {_find_way_out(findings)}")
    return 1


def _find_way_out(findings: Sequence[str]) -> str:
    if any(finding.startswith("head ") for finding in findings):
        return "Join the heads: backstay db merge"
    if any(finding.startswith("migration ") for finding in findings):
        return "Run the migrations, then check again: backstay db upgrade"
    return 'Write the migration: backstay db revision -m "..."'


def upgrade(app: str | None, *, revision: str) -> None:
    """Run the pending migrations.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        revision: Where to go: `head`, an id or its beginning, a number of steps such as `+1`, `heads`, or
            `label@head`.
    """

    async def move(opened: _Opened) -> None:
        _tell(await opened.migrations.upgrade(opened.database.engine, revision=revision), "ran")

    _run(app, move)


def downgrade(app: str | None, *, revision: str) -> None:
    """Take migrations back.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        revision: Where to go: `base`, an id or its beginning, a number of steps such as `-1`, or `label@-1`.
    """

    async def move(opened: _Opened) -> None:
        _tell(await opened.migrations.downgrade(opened.database.engine, revision=revision), "was taken back")

    _run(app, move)


def show_history(app: str | None) -> None:
    """Write the migrations to standard output, newest first; no database is asked."""
    loaded = load_app(enter_project(app))
    revisions = loaded.installation.migrations.history()
    for revision in revisions:
        typer.echo(_describe(revision))
    if not revisions:
        folder = loaded.settings.database.migrations
        say(f'There are no migrations in {folder}. Write one: backstay db revision -m "first tables"')


def show_current(app: str | None) -> None:
    """Write the migrations that the database is at to standard output, and say what it lacks."""

    async def show(opened: _Opened) -> None:
        for revision in await opened.migrations.current(opened.database.engine):
            typer.echo(_describe(revision))
        pending = await opened.migrations.pending(opened.database.engine)
        if pending:
            say(f"{_count(pending)} not yet run, up to {pending[-1].id}. Run: backstay db upgrade")
        else:
            say("No migration is pending.")

    _run(app, show)


@dataclass(frozen=True, slots=True)
class _Opened:
    database: Database
    migrations: Migrations


def _run(app: str | None, act: Callable[[_Opened], Coroutine[Any, Any, None]]) -> None:
    loaded = load_app(enter_project(app))
    _log_as_talk(loaded.settings)
    asyncio.run(_act(loaded.installation, act))


def _log_as_talk(settings: Settings) -> None:
    """Write logs to standard error: standard output is for what the command was asked for."""
    configure_logging(settings.logging, production=settings.environment == "production", stream=sys.stderr)
    # It tells each of its plugins and every look at a table.
    logging.getLogger("alembic").setLevel(logging.WARNING)


async def _act(installation: Installation, act: Callable[[_Opened], Coroutine[Any, Any, None]]) -> None:
    settings = installation.settings
    database = Database(settings.database)
    try:
        await act(_Opened(database, installation.migrations))
    except Exception as error:
        await outlive_drivers()
        explained = explain_database_error(error, settings)
        if explained is None:
            raise
        raise explained from error
    finally:
        await database.close()


def _describe(revision: Revision) -> str:
    labels = f"  ({', '.join(revision.branch_labels)})" if revision.branch_labels else ""
    return f"{revision.id}  {revision.message}{labels}".rstrip()


def _tell(revisions: Sequence[Revision], what: str) -> None:
    for revision in revisions:
        say(f"{_describe(revision)}: {what}")
    if not revisions:
        say("There is nothing to do: the database is there already.")


def _count(revisions: Sequence[Revision]) -> str:
    return "1 migration is" if len(revisions) == 1 else f"{len(revisions)} migrations are"

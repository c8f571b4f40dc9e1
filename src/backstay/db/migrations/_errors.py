"""What can go wrong with migrations.

MigrationError(ConfigurationError)
├── BrokenMigrationError      a file cannot be read or imported
├── ForeignKeysBrokenError    a migration left rows that point nowhere (SQLite)
├── MigrationFailedError      a migration raised; it was rolled back
├── MigrationsLockedError     another process kept migrating for too long
├── MigrationsPendingError    the database is behind the files
├── MultipleHeadsError        two migrations claim to be the last
├── NothingToMigrateError     the models and the database agree
└── UnknownRevisionError      no file has that revision
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from backstay.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from backstay.db.migrations._revision import Revision


class MigrationError(ConfigurationError):
    """A migration cannot be written, read or run. Its `hint` says what to do."""


class BrokenMigrationError(MigrationError):
    """A migration file cannot be read or imported."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(
            f"The migration {path}, line {line}, cannot be read: {reason}", hint="Mend or remove it."
        )
        self.path = path
        self.line = line


class ForeignKeysBrokenError(MigrationError):
    """A migration left rows whose foreign key points nowhere; it was rolled back."""

    def __init__(self, tables: Sequence[str]) -> None:
        super().__init__(
            f"The migration leaves rows that point nowhere in {', '.join(tables)}; it was rolled back.",
            hint="Delete or repair those rows in the migration, before it ends.",
        )
        self.tables = tuple(tables)


class MigrationFailedError(MigrationError):
    """A migration raised; it was rolled back, those before it were kept."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(
            f"The migration {path}, line {line}, failed: {reason}",
            hint="It was rolled back and the ones before it were kept: mend it and run the command again.",
        )
        self.path = path
        self.line = line


class MigrationsLockedError(MigrationError):
    """Another process kept migrating this database for longer than we wait."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__(
            f"Another process has been migrating this database for {wait.total_seconds():g} seconds.",
            hint="Wait until it ends, then run the command again.",
        )


class MigrationsPendingError(MigrationError):
    """The database is behind the migration files."""

    def __init__(self, pending: Sequence[Revision]) -> None:
        number = "1 migration" if len(pending) == 1 else f"{len(pending)} migrations"
        super().__init__(
            f"The database lacks {number}, up to {pending[-1].path.name}.", hint="Run `backstay db upgrade`."
        )
        self.pending = tuple(pending)


class MultipleHeadsError(MigrationError):
    """Two or more migrations claim to be the last."""

    def __init__(self, heads: Sequence[Revision]) -> None:
        names = ", ".join(head.path.name for head in heads)
        super().__init__(
            f"{len(heads)} migrations claim to be the last: {names}.",
            hint=f'Put them in a row: write down_revision = "{heads[0].id}" into {heads[-1].path.name}.',
        )
        self.heads = tuple(heads)


class NothingToMigrateError(MigrationError):
    """The models and the database agree, so there is nothing to write."""

    def __init__(self) -> None:
        super().__init__(
            "The models and the database agree: there is nothing to migrate.",
            hint="Was the new model's module imported? For a migration by hand add --empty.",
        )


class UnknownRevisionError(MigrationError):
    """No migration file has that revision."""

    def __init__(self, revision: str, known: Collection[str], *, at_database: bool = False) -> None:
        if at_database:
            super().__init__(
                f"The database is at revision {revision!r}, which no migration file here has.",
                hint="It was migrated by other code, perhaps newer: use that code, or bring its files here.",
            )
        else:
            super().__init__(
                f"No migration has the revision {revision!r}.{did_you_mean(revision, known)}",
                hint="`backstay db history` lists them.",
            )
        self.revision = revision

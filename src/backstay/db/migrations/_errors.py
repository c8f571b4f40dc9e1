"""What can go wrong with migrations.

MigrationError(ConfigurationError)
├── BrokenMigrationError      a file cannot be read or imported
├── ForeignKeysBrokenError    a migration left rows that point nowhere (SQLite)
├── MigrationBlockedError     a migration did not get its locks; it was rolled back
├── MigrationFailedError      a migration raised; it was rolled back
├── MigrationHalfDoneError    a migration raised after a part of it was committed
├── MigrationsLockedError     another process kept migrating for too long
├── MigrationsPendingError    the database is behind the files
├── MultipleHeadsError        two migrations claim to be the last
├── NothingToMigrateError     the models and the database agree
├── UndeclaredTablesError     the database has tables that no model declares
├── UndroppableTableError     a table was to be dropped that must not be
├── UnknownRevisionError      no file has that revision
└── UnknownTargetError        no migration, or no single one, is at that path or begins with that id
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from backstay.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from backstay.db.migrations._blockers import Blocker
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


class MigrationBlockedError(MigrationError):
    """A migration did not get its locks, however often it was tried; it was rolled back."""

    def __init__(self, path: Path, *, attempts: int, blockers: Sequence[Blocker]) -> None:
        times = "once" if attempts == 1 else f"{attempts} times"
        found = "".join(f"; {blocker}" for blocker in blockers)
        super().__init__(
            f"The migration {path.name} was tried {times}, did not get the lock it needs and was rolled back"
            f"{found}.",
            hint="End that transaction or come back when less is going on; migrations.attempts and "
            "migrations.lock_timeout say how long it is tried.",
        )
        self.path = path
        self.blockers = tuple(blockers)


class MigrationFailedError(MigrationError):
    """A migration raised; it was rolled back, those before it were kept."""

    def __init__(self, path: Path, line: int, reason: str, *, way_out: str = "mend it") -> None:
        super().__init__(
            f"The migration {path}, line {line}, failed: {reason}",
            hint=f"It was rolled back and the ones before it were kept: {way_out} and run the command again.",
        )
        self.path = path
        self.line = line


class MigrationHalfDoneError(MigrationError):
    """A migration raised after its autocommit block had committed a part of it; that part stays.

    Attributes:
        invalid_indexes: What it left that no query uses and every write pays for, by their names in SQL.
    """

    def __init__(self, path: Path, line: int, reason: str, *, invalid_indexes: Mapping[str, str]) -> None:
        indexes = "".join(
            f"; it left the invalid index {name} on {table}" for name, table in invalid_indexes.items()
        )
        super().__init__(
            f"The migration {path}, line {line}, failed: {reason}; what it had done before is "
            f"committed, because it has an autocommit block{indexes}.",
            hint=_describe_repair(tuple(invalid_indexes)),
        )
        self.path = path
        self.line = line
        self.invalid_indexes = tuple(invalid_indexes)


def _describe_repair(invalid_indexes: Sequence[str]) -> str:
    if not invalid_indexes:
        return "Take that part back by hand, or let the migration skip it; then run the command again."
    drops = "; ".join(f"DROP INDEX CONCURRENTLY {name}" for name in invalid_indexes)
    return f"Run in the database: {drops}; then mend what failed and run the command again."


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
            hint="Join them: backstay db merge. To keep the branches apart, say which one you mean, as in "
            f"`upgrade heads` or `revision --head {heads[0].id}`.",
        )
        self.heads = tuple(heads)


class NothingToMigrateError(MigrationError):
    """The models and the database agree, so there is nothing to write."""

    def __init__(self) -> None:
        super().__init__(
            "The models and the database agree: there is nothing to migrate.",
            hint="Was the new model's module imported? For a migration by hand add --empty.",
        )


class UndeclaredTablesError(MigrationError):
    """The database has tables that no model declares, so a comparison would drop them."""

    def __init__(self, tables: Sequence[str]) -> None:
        names = ", ".join(tables)
        super().__init__(
            f"No imported model declares {names}, so the migration would drop "
            f"{'it' if len(tables) == 1 else 'them'}.",
            hint=f"Import the model; or drop it with --drop {tables[0]}; or, if it is somebody else's, "
            "name it in the setting migrations.foreign_tables.",
        )
        self.tables = tuple(tables)


class UndroppableTableError(MigrationError):
    """A table was to be dropped that a model has, that is the library's own, or that is not there."""

    def __init__(self, table: str, reason: str, *, hint: str) -> None:
        super().__init__(f"The table {table!r} cannot be dropped: {reason}", hint=hint)
        self.table = table


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


class UnknownTargetError(MigrationError):
    """A migration was asked for by a path or by the beginning of an id, and none or several are meant."""

    def __init__(self, target: str | Path, *, meant: Collection[str], known: Collection[str]) -> None:
        if isinstance(target, Path):
            reason = f"There is no migration {target.name} in {target.parent.name}."
        elif meant:
            reason = f"{len(meant)} migrations begin with {target!r}: {', '.join(meant)}."
        else:
            reason = f"No migration has the revision {target!r}.{did_you_mean(target, known)}"
        super().__init__(reason, hint="`backstay db history` lists them.")
        self.target = target

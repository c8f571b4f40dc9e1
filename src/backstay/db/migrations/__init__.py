"""Migrations: Alembic with its environment in the library; a service keeps `migrations/versions/` only.

Alembic is imported when a migration is run or written, not before: asking what is pending does without it.
"""

from backstay.db.migrations._errors import (
    BrokenMigrationError,
    ForeignKeysBrokenError,
    MigrationBlockedError,
    MigrationError,
    MigrationFailedError,
    MigrationHalfDoneError,
    MigrationsLockedError,
    MigrationsPendingError,
    MultipleHeadsError,
    NothingToMigrateError,
    UndeclaredTablesError,
    UndroppableTableError,
    UnknownRevisionError,
    UnknownTargetError,
)
from backstay.db.migrations._revision import MergeOptions, PlaceOptions, Revision
from backstay.db.migrations._runner import Migrations

__all__ = [
    "BrokenMigrationError",
    "ForeignKeysBrokenError",
    "MergeOptions",
    "MigrationBlockedError",
    "MigrationError",
    "MigrationFailedError",
    "MigrationHalfDoneError",
    "Migrations",
    "MigrationsLockedError",
    "MigrationsPendingError",
    "MultipleHeadsError",
    "NothingToMigrateError",
    "PlaceOptions",
    "Revision",
    "UndeclaredTablesError",
    "UndroppableTableError",
    "UnknownRevisionError",
    "UnknownTargetError",
]

"""Migrations: Alembic with its environment in the library; a service keeps `migrations/versions/` only.

Alembic is imported when a migration is run or written, not before: asking what is pending does without it.
"""

from backstay.db.migrations._errors import (
    BrokenMigrationError,
    ForeignKeysBrokenError,
    MigrationError,
    MigrationFailedError,
    MigrationsLockedError,
    MigrationsPendingError,
    MultipleHeadsError,
    NothingToMigrateError,
    UnknownRevisionError,
)
from backstay.db.migrations._revision import Revision
from backstay.db.migrations._runner import Migrations

__all__ = [
    "BrokenMigrationError",
    "ForeignKeysBrokenError",
    "MigrationError",
    "MigrationFailedError",
    "Migrations",
    "MigrationsLockedError",
    "MigrationsPendingError",
    "MultipleHeadsError",
    "NothingToMigrateError",
    "Revision",
    "UnknownRevisionError",
]

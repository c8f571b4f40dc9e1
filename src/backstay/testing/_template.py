"""What the database of a test starts from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from backstay.db import Database
from backstay.db.migrations import Migrations
from backstay.db.model import Model
from backstay.db.records import LibraryTables

__all__ = ["CreatedTables", "Fill", "MigratedTables", "Tables", "has_migrations"]

Fill: TypeAlias = Callable[[Database], Awaitable[None]]
"""Prepares an empty database; hashable, and called once in a session for each kind of database."""


class Tables(Protocol):
    """What SQLAlchemy's `MetaData` can do."""

    def create_all(self, bind: Any) -> None:
        """Create the tables that are not there."""


@dataclass(frozen=True, slots=True)
class CreatedTables:
    """Prepares a database by creating tables as they are declared.

    Attributes:
        library_tables: Those of the library's own tables that the project uses.
    """

    metadata: Tables
    library_tables: LibraryTables = ()

    async def __call__(self, database: Database) -> None:
        """Create the tables."""
        async with database.engine.begin() as connection:
            await connection.run_sync(self.metadata.create_all)
            for table in self.library_tables:
                await connection.run_sync(partial(table.create, checkfirst=True))


@dataclass(frozen=True, slots=True)
class MigratedTables:
    """Prepares a database as production's is: by running the project's migrations."""

    directory: Path

    async def __call__(self, database: Database) -> None:
        """Run the migrations."""
        await Migrations(Model.metadata, self.directory).upgrade(database.engine)


def has_migrations(directory: Path) -> bool:
    """Return whether a folder holds at least one migration."""
    return any(directory.glob("versions/[!_.]*.py"))

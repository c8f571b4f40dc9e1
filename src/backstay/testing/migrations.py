"""The check of a project's migrations: the whole history up, down and up, then no difference to the models.

@pytest.mark.databases("sqlite", "postgresql")
async def test_the_migrations_hold(migrations_check: MigrationsCheck) -> None:
await migrations_check()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backstay.db import Database
from backstay.db.migrations import MigrationError, Migrations
from backstay.db.model import Model
from backstay.db.records import LibraryTables
from backstay.settings import Settings
from backstay.testing._project import project_tables
from backstay.testing._template import has_migrations

__all__ = ["MigrationsCheck"]


class MigrationsCheck:
    """Runs a project's migrations on the database of a test; what the fixture `migrations_check` returns.

    Args:
        directory: The folder that holds `versions`.
        library_tables: Those of the library's own tables that the project uses.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        directory: Path,
        *,
        library_tables: LibraryTables = (),
    ) -> None:
        self._database = database
        self._directory = directory
        self._migrations = Migrations(
            Model.metadata, directory, settings=settings.migrations, library_tables=library_tables
        )

    async def __call__(self, *, down_to: str = "base") -> None:
        """Run all migrations up, down and up again, and compare the database with the models.

        The test fails with what is wrong: a migration that cannot run or be taken back, two heads, or a
        line for each difference. The rows of the database are lost.

        Args:
            down_to: Where the way down ends, for a history whose beginning cannot be taken back.
        """
        if not has_migrations(self._directory):
            pytest.fail(f"There are no migrations in {self._directory} to check.", pytrace=False)
        engine = self._database.engine
        with _failing():
            await self._migrations.upgrade(engine)
            await self._migrations.downgrade(engine, revision=down_to)
            await self._migrations.upgrade(engine)
            findings = await self._migrations.check(engine)
        if findings:
            differences = "\n  ".join(findings)
            pytest.fail(f"Models, migrations and database differ:\n  {differences}", pytrace=False)


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except MigrationError as error:
        pytest.fail(f"{error}\nhint: {error.hint}" if error.hint else str(error), pytrace=False)


@pytest.fixture
def migrations_check(
    request: pytest.FixtureRequest, database: Database, settings: Settings
) -> MigrationsCheck:
    """Return a function that runs the project's whole history on this test's database; await its call."""
    return MigrationsCheck(
        database,
        settings,
        request.config.rootpath / settings.database.migrations,
        library_tables=project_tables(request.config),
    )

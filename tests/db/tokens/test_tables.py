"""The tables reach a service by a migration of its own, which says all that is declared."""

from pathlib import Path

import pytest
from sqlalchemy import MetaData, inspect
from sqlalchemy.engine import Connection

from backstay.db import Database
from backstay.db.migrations import Migrations
from backstay.db.records import require_tables
from backstay.db.tokens import api_key_tables, one_time_token_tables, session_tables
from backstay.errors import ConfigurationError

pytestmark = pytest.mark.databases("sqlite", "postgresql")

TABLES = (*session_tables, *one_time_token_tables, *api_key_tables)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    """Start empty."""
    return MetaData()


async def test_a_migration_brings_them_and_nothing_is_left_to_migrate(
    database: Database, tmp_path: Path
) -> None:
    migrations = Migrations(MetaData(), tmp_path, library_tables=TABLES)
    with pytest.raises(ConfigurationError, match="backstay_sessions"):
        await require_tables(database, TABLES)

    await migrations.revision(database.engine, message="add accounts")
    await migrations.upgrade(database.engine)

    assert await migrations.check(database.engine) == ()
    await require_tables(database, TABLES)
    async with database.engine.connect() as connection:
        assert await connection.run_sync(_sealed_index) == ["used_at"]

    await migrations.downgrade(database.engine, revision="base")
    with pytest.raises(ConfigurationError):
        await require_tables(database, TABLES)


def _sealed_index(connection: Connection) -> list[str | None]:
    indexes = inspect(connection).get_indexes("backstay_refresh_tokens")
    (sealed,) = [each for each in indexes if each["name"] == "ix_backstay_refresh_tokens_sealed"]
    where = sealed["dialect_options"][f"{connection.dialect.name}_where"]
    assert "successor_sealed IS NOT NULL" in str(where)
    return sealed["column_names"]

"""A service that may ask for more connections than there are says so when it starts."""

import logging
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import MetaData, text

from backstay import create_app
from backstay.app._connection_budget import check_connections
from backstay.db import Database
from backstay.settings import Settings

_NO_TABLES = MetaData()


@pytest.fixture
def metadata() -> MetaData:
    return _NO_TABLES


def with_pool(settings: Settings, size: int) -> Settings:
    database = settings.database.model_copy(update={"pool_size": size, "pool_overflow": 0})
    return settings.model_copy(update={"database": database})


async def read_allowed(database: Database) -> int:
    async with database.reading() as session:
        return int(await session.scalar(text("SHOW max_connections")) or 0)


@pytest.mark.databases("postgresql")
class TestPostgreSQL:
    @pytest.mark.parametrize("too_many", [0, 1])
    async def test_it_has_to_allow_as_many_as_the_worker_may_ask_for_and_ten(
        self,
        settings: Settings,
        database: Database,
        caplog: pytest.LogCaptureFixture,
        running: Any,
        too_many: int,
    ) -> None:
        allowed = await read_allowed(database)
        size = (allowed - 10) // 2 + too_many

        with caplog.at_level(logging.WARNING, "backstay.app"):
            async with running(create_app(with_pool(settings, size))):
                pass

        warnings = [record.getMessage() for record in caplog.records]
        assert len(warnings) == too_many
        for warning in warnings:
            assert f"1 worker of {2 * size} connections each may ask PostgreSQL for {2 * size}" in warning
            assert f"it allows {allowed}" in warning

    async def test_all_workers_count(self, database: Database, caplog: pytest.LogCaptureFixture) -> None:
        each = sum(pool.limit for pool in database.pools())
        workers = await read_allowed(database) // each + 1

        with caplog.at_level(logging.WARNING, "backstay.app"):
            await check_connections(database, workers=workers)

        (record,) = caplog.records
        assert f"{workers} workers of {each} connections each" in record.getMessage()


async def test_sqlite_has_no_limit(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    in_memory = settings.database.model_copy(update={"url": SecretStr("sqlite://")})
    database = Database(in_memory)

    with caplog.at_level(logging.WARNING, "backstay.app"):
        await check_connections(database, workers=10_000)
    await database.close()

    assert caplog.records == []

"""A service that may ask for more connections than there are says so when it starts."""

import logging
from typing import Any

import pytest
from sqlalchemy import MetaData, text

from backstay import create_app
from backstay.db import Database
from backstay.settings import Settings

_NO_TABLES = MetaData()


@pytest.fixture
def metadata() -> MetaData:
    return _NO_TABLES


def with_connections(settings: Settings, *, workers: int, pool_size: int) -> Settings:
    database = settings.database.model_copy(update={"pool_size": pool_size, "pool_overflow": 0})
    server = settings.server.model_copy(update={"workers": workers})
    return settings.model_copy(update={"database": database, "server": server})


async def read_allowed(database: Database) -> int:
    async with database.reading() as session:
        return int(await session.scalar(text("SHOW max_connections")) or 0)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(("too_many", "workers"), [(0, 2), (1, 2), (1, 1)])
async def test_postgresql_has_to_allow_as_many_as_all_workers_may_ask_for_and_ten(
    settings: Settings,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    running: Any,
    too_many: int,
    workers: int,
) -> None:
    allowed = await read_allowed(database)
    pool_size = (allowed - 10) // (2 * workers) + too_many
    settings = with_connections(settings, workers=workers, pool_size=pool_size)

    with caplog.at_level(logging.WARNING, "backstay.app"):
        async with running(create_app(settings)):
            pass

    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == too_many
    for warning in warnings:
        each = 2 * pool_size
        who = "1 worker" if workers == 1 else f"{workers} workers"
        assert f"{who} of {each} connections each may ask PostgreSQL for {workers * each}" in warning
        assert f"it allows {allowed}" in warning


async def test_sqlite_has_no_limit(
    settings: Settings, caplog: pytest.LogCaptureFixture, running: Any
) -> None:
    with caplog.at_level(logging.WARNING, "backstay.app"):
        async with running(create_app(with_connections(settings, workers=50, pool_size=50))):
            pass

    assert caplog.records == []

"""Idempotency keys expire in batches, and nobody waits for another one's rows."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import MetaData, insert, select

from backstay.db import Database
from backstay.db import records as records_module
from backstay.db.records import KeyRecords, RequestKey, idempotency_table
from backstay.errors import KeyInUseError
from backstay.settings import IdempotencySettings

pytestmark = pytest.mark.databases("sqlite", "postgresql")

tables = MetaData()
idempotency_table.to_metadata(tables)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


@pytest.fixture
def records(database: Database, monkeypatch: pytest.MonkeyPatch) -> KeyRecords:
    monkeypatch.setattr(records_module, "_BATCH", 3)
    return KeyRecords(database, IdempotencySettings(keep=timedelta(hours=1)))


async def add(database: Database, *ages: timedelta) -> None:
    now = datetime.now(UTC)
    rows = [
        {
            "owner": "",
            "method": "POST",
            "route": "/orders",
            "key": f"{number}",
            "fingerprint": "f",
            "created_at": now - age,
        }
        for number, age in enumerate(ages)
    ]
    async with database.transaction() as session:
        await session.execute(insert(idempotency_table), rows)


async def keys(database: Database) -> set[str]:
    async with database.reading() as session:
        return set(await session.scalars(select(idempotency_table.c.key)))


async def test_old_keys_go_oldest_first_in_batches_and_young_ones_stay(
    records: KeyRecords, database: Database
) -> None:
    await add(database, *(timedelta(hours=hours) for hours in (2, 3, 4, 5, 0)), timedelta(minutes=59))

    assert await records.sweep() is True
    assert await keys(database) == {"0", "4", "5"}
    assert await records.sweep() is False
    assert await keys(database) == {"4", "5"}


async def test_a_key_that_is_there_and_gone_again_each_time_is_in_use(
    records: KeyRecords, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def insert_nothing(*_: object) -> bool:
        return False

    monkeypatch.setattr(records, "_insert", insert_nothing)
    async with database.transaction() as session:
        with pytest.raises(KeyInUseError):
            await records.claim(session, RequestKey("", "POST", "/orders", "a"), fingerprint="f")


@pytest.mark.databases("postgresql")
async def test_a_row_that_somebody_holds_is_left_for_later(records: KeyRecords, database: Database) -> None:
    await add(database, timedelta(hours=2), timedelta(hours=3))
    async with database.transaction() as session:
        held = select(idempotency_table.c.key).where(idempotency_table.c.key == "1").with_for_update()
        await session.execute(held)

        await records.sweep()
        assert await keys(database) == {"1"}

    await records.sweep()
    assert await keys(database) == set()

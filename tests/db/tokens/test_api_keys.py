"""API keys are found by their id, and end when their owner says so."""

from datetime import timedelta

import pytest

from backstay.db import AsyncSession, Database
from backstay.db.tokens import ApiKeyRecord, ApiKeys
from backstay.security.api_keys import new_api_key, read_api_key

from .conftest import Clock

pytestmark = pytest.mark.databases("sqlite", "postgresql")


@pytest.fixture
def api_keys(clock: Clock) -> ApiKeys:
    return ApiKeys(clock=clock)


async def add(
    api_keys: ApiKeys,
    session: AsyncSession,
    *,
    subject: str = "7",
    name: str = "ci",
    ends_in: timedelta | None = None,
) -> tuple[str, ApiKeyRecord]:
    key = new_api_key("shop")
    record = await api_keys.add(
        session,
        key_id=key.key_id,
        digest=key.digest,
        subject=subject,
        name=name,
        scopes=["b", "a"],
        expires_at=None if ends_in is None else api_keys._clock() + ends_in,
    )
    return key.key.get_secret_value(), record


async def test_a_key_is_found_by_what_its_text_says(api_keys: ApiKeys, database: Database) -> None:
    async with database.transaction() as session:
        text, record = await add(api_keys, session)
    read = read_api_key(text)
    assert read is not None
    async with database.reading() as session:
        found = await api_keys.find(session, read.key_id)
        assert await api_keys.find(session, "none") is None

    assert found == record
    assert found.digest == read.digest
    assert found.scopes == {"a", "b"}
    assert found.digest not in repr(found)


async def test_a_key_lives_until_it_ends_or_is_ended(
    api_keys: ApiKeys, session: AsyncSession, clock: Clock
) -> None:
    _, endless = await add(api_keys, session)
    _, short = await add(api_keys, session, ends_in=timedelta(days=1))
    assert short.is_live(clock.now)

    clock.advance(days=1)
    assert not short.is_live(clock.now)
    assert endless.is_live(clock.now)

    assert await api_keys.revoke(session, endless.key_id) is True
    assert await api_keys.revoke(session, endless.key_id) is False
    found = await api_keys.find(session, endless.key_id)
    assert found is not None
    assert not found.is_live(clock.now)


async def test_nobody_ends_the_key_of_another_one(api_keys: ApiKeys, session: AsyncSession) -> None:
    _, record = await add(api_keys, session)

    assert await api_keys.revoke(session, record.key_id, subject="8") is False
    assert await api_keys.revoke(session, record.key_id, subject="7") is True


async def test_an_owner_sees_its_own_keys_newest_first(
    api_keys: ApiKeys, session: AsyncSession, clock: Clock
) -> None:
    for name in ("old", "new"):
        await add(api_keys, session, name=name)
        clock.advance(days=1)
    await add(api_keys, session, subject="8")

    assert [record.name for record in await api_keys.list(session, "7")] == ["new", "old"]
    assert await api_keys.list(session, "9") == ()

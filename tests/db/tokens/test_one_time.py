"""A one-time token works once, for its purpose, in its time."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from backstay.db import Database
from backstay.db.tokens import OneTimeTokens, Taken
from backstay.db.tokens._tables import one_time_token_table

from .conftest import Clock

pytestmark = pytest.mark.databases("sqlite", "postgresql")

HOUR = timedelta(hours=1)


async def issue(tokens: OneTimeTokens, purpose: str = "reset") -> str:
    async with tokens._database.transaction() as session:
        return await tokens.issue(session, purpose=purpose, subject="7", bound_to="fingerprint", ttl=HOUR)


async def take(tokens: OneTimeTokens, token: str, purpose: str = "reset") -> Taken | None:
    async with tokens._database.transaction() as session:
        return await tokens.take(session, purpose=purpose, token=token)


async def test_it_works_once(one_time_tokens: OneTimeTokens) -> None:
    token = await issue(one_time_tokens)

    assert await take(one_time_tokens, token) == Taken("7", "fingerprint")
    assert await take(one_time_tokens, token) is None


async def test_of_many_that_take_it_at_once_one_gets_it(one_time_tokens: OneTimeTokens) -> None:
    token = await issue(one_time_tokens)
    taken = await asyncio.gather(*(take(one_time_tokens, token) for _ in range(8)))

    assert [each is None for each in taken].count(False) == 1


async def test_it_works_again_when_what_it_was_taken_for_was_rolled_back(
    one_time_tokens: OneTimeTokens, database: Database
) -> None:
    """A new password that is too weak must not cost the token."""
    token = await issue(one_time_tokens)
    with pytest.raises(LookupError):
        async with database.transaction() as session:
            assert await one_time_tokens.take(session, purpose="reset", token=token)
            raise LookupError

    assert await take(one_time_tokens, token)


async def test_it_works_for_its_purpose_only(one_time_tokens: OneTimeTokens) -> None:
    token = await issue(one_time_tokens, purpose="verify")

    assert await take(one_time_tokens, token, purpose="reset") is None
    assert await take(one_time_tokens, token, purpose="verify")


async def test_it_works_in_its_time_only(one_time_tokens: OneTimeTokens, clock: Clock) -> None:
    early, late = await issue(one_time_tokens), await issue(one_time_tokens)

    clock.advance(minutes=59.9)
    assert await take(one_time_tokens, early)
    clock.advance(minutes=0.1)
    assert await take(one_time_tokens, late) is None


async def test_a_second_one_does_not_void_the_first(one_time_tokens: OneTimeTokens) -> None:
    tokens = [await issue(one_time_tokens), await issue(one_time_tokens)]
    assert all([await take(one_time_tokens, token) for token in tokens])


async def test_what_nobody_issued_is_worth_nothing(one_time_tokens: OneTimeTokens) -> None:
    await issue(one_time_tokens)
    for token in ("", "x", "\0", "\ud800", "a" * 5000):
        assert await take(one_time_tokens, token) is None


async def test_it_is_not_stored(one_time_tokens: OneTimeTokens, database: Database) -> None:
    token = await issue(one_time_tokens)
    async with database.reading() as session:
        row = (await session.execute(select(one_time_token_table))).one()

    assert token not in repr(tuple(row))
    assert await take(one_time_tokens, row.digest) is None


async def test_those_that_have_expired_are_deleted(
    one_time_tokens: OneTimeTokens, clock: Clock, database: Database
) -> None:
    await issue(one_time_tokens)
    clock.advance(minutes=30)
    kept = await issue(one_time_tokens)
    clock.advance(minutes=30)

    assert await one_time_tokens.sweep() is False
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(one_time_token_table)) == 1
    assert await take(one_time_tokens, kept)

"""A login is renewed by one token at a time; one that comes again is forgiven for a moment, then ends it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text
from sqlalchemy.exc import DBAPIError

from backstay.db import Database
from backstay.db.tokens import Begun, RefusedRenewal, Renewal, Renewed, ReuseDetected, Sessions, _sweeping
from backstay.db.tokens import sessions as sessions_module
from backstay.db.tokens._tables import refresh_token_table, session_table
from backstay.security import opaque
from backstay.security.opaque import hash_token
from backstay.settings import SecuritySettings

from .conftest import Clock

pytestmark = pytest.mark.databases("sqlite", "postgresql")


@dataclass
class Caller:
    """A client that logs in and renews, each time in a transaction of its own, as `renew` asks for."""

    database: Database
    sessions: Sessions

    async def log_in(self, subject: str = "7", *, client_id: str = "web") -> Begun:
        async with self.database.transaction() as session:
            return await self.sessions.begin(
                session, subject, client_id=client_id, scopes=["orders:write", "orders:read"]
            )

    async def renew(self, token: str, *, client_id: str = "web") -> Renewal:
        async with self.database.transaction() as session:
            return await self.sessions.renew(session, token, client_id=client_id)

    async def renew_well(self, token: str) -> Renewed:
        renewal = await self.renew(token)
        assert isinstance(renewal, Renewed), renewal
        return renewal

    async def is_live(self, session_id: str) -> bool:
        async with self.database.reading() as session:
            state = await self.sessions.find(session, session_id)
        return state is not None and state.is_live(self.sessions._clock())

    async def count(self, table: Any) -> int:
        async with self.database.reading() as session:
            return await session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
def caller(database: Database, sessions: Sessions) -> Caller:
    return Caller(database, sessions)


async def test_a_login_is_stored_as_it_was_granted(caller: Caller, clock: Clock) -> None:
    begun = await caller.log_in()
    async with caller.database.reading() as session:
        state = await caller.sessions.find(session, begun.session_id)

    assert state is not None
    assert (state.subject, state.client_id) == ("7", "web")
    assert state.scopes == {"orders:read", "orders:write"}
    assert (state.created_at, state.expires_at) == (clock.now, clock.now + timedelta(days=90))
    assert state.is_live(clock.now)
    assert not state.is_live(state.expires_at)


async def test_a_login_that_is_not_there_is_not_found(caller: Caller) -> None:
    async with caller.database.reading() as session:
        assert await caller.sessions.find(session, "none") is None


async def test_each_renewal_brings_another_token_of_the_same_login(caller: Caller) -> None:
    begun = await caller.log_in()
    first = await caller.renew_well(begun.refresh_token)
    second = await caller.renew_well(first.refresh_token)

    assert {begun.session_id} == {first.session_id, second.session_id}
    assert (second.subject, second.client_id) == ("7", "web")
    assert second.scopes == {"orders:read", "orders:write"}
    assert len({begun.refresh_token, first.refresh_token, second.refresh_token}) == 3


async def test_the_database_holds_nothing_that_renews_a_login(caller: Caller) -> None:
    begun = await caller.log_in()
    renewed = await caller.renew_well(begun.refresh_token)
    async with caller.database.reading() as session:
        rows = (await session.execute(select(refresh_token_table))).all()

    stored = repr([tuple(row) for row in rows])
    assert begun.refresh_token not in stored
    assert renewed.refresh_token not in stored
    for row in rows:
        assert isinstance(await caller.renew(row.digest), RefusedRenewal)
        # Not even together with the other things that are stored.
        assert row.successor_sealed is None or opaque.unseal(row.successor_sealed, row.digest) is None


async def test_no_token_shows_itself(caller: Caller) -> None:
    begun = await caller.log_in()
    renewed = await caller.renew_well(begun.refresh_token)

    assert begun.refresh_token not in repr(begun)
    assert renewed.refresh_token not in repr(renewed)


async def test_a_token_that_comes_again_within_the_grace_gets_the_same_successor(
    caller: Caller, clock: Clock
) -> None:
    begun = await caller.log_in()
    first = await caller.renew_well(begun.refresh_token)

    for _ in range(3):
        assert await caller.renew_well(begun.refresh_token) == first
        clock.advance(seconds=5)
    assert await caller.is_live(begun.session_id)


async def test_it_gets_the_same_successor_also_when_that_one_was_used(caller: Caller) -> None:
    """Two tabs of one browser renew at the same time, and one is quicker by two renewals."""
    begun = await caller.log_in()
    first = await caller.renew_well(begun.refresh_token)
    second = await caller.renew_well(first.refresh_token)

    assert await caller.renew_well(begun.refresh_token) == first
    assert await caller.renew_well(first.refresh_token) == second


async def test_a_token_that_comes_again_later_ends_the_login(caller: Caller, clock: Clock) -> None:
    begun = await caller.log_in()
    first = await caller.renew_well(begun.refresh_token)
    clock.advance(seconds=10.001)

    assert await caller.renew(begun.refresh_token) == ReuseDetected(begun.session_id, "7")

    assert not await caller.is_live(begun.session_id)
    assert await caller.renew(first.refresh_token) == RefusedRenewal("revoked")
    assert await caller.renew(begun.refresh_token) == RefusedRenewal("revoked")


async def test_a_token_from_the_beginning_of_a_long_chain_ends_the_login(
    caller: Caller, clock: Clock
) -> None:
    begun = await caller.log_in()
    token = begun.refresh_token
    for _ in range(20):
        clock.advance(minutes=15)
        token = (await caller.renew_well(token)).refresh_token

    assert isinstance(await caller.renew(begun.refresh_token), ReuseDetected)
    assert await caller.renew(token) == RefusedRenewal("revoked")


async def test_the_end_of_a_stolen_login_is_lost_with_the_transaction_of_an_error(
    caller: Caller, clock: Clock
) -> None:
    """Why `renew` wants a transaction of its own: the session of a request rolls back when it answers 400."""
    begun = await caller.log_in()
    await caller.renew_well(begun.refresh_token)
    clock.advance(minutes=1)

    with pytest.raises(LookupError):
        async with caller.database.transaction() as request:
            assert await caller.sessions.renew(request, begun.refresh_token, client_id="web")
            raise LookupError
    assert await caller.is_live(begun.session_id)

    with pytest.raises(LookupError):
        async with caller.database.transaction():
            await caller.renew(begun.refresh_token)
            raise LookupError
    assert not await caller.is_live(begun.session_id)


async def test_logins_of_the_same_user_end_one_by_one(caller: Caller, clock: Clock) -> None:
    stolen, other = await caller.log_in(), await caller.log_in()
    await caller.renew_well(stolen.refresh_token)
    clock.advance(minutes=1)
    await caller.renew(stolen.refresh_token)

    assert not await caller.is_live(stolen.session_id)
    assert await caller.renew_well(other.refresh_token)


async def test_a_token_that_nobody_issued_is_unknown(caller: Caller) -> None:
    await caller.log_in()
    for token in ("", "x", "a" * 5000, "\0", "\ud800", "' OR 1=1 --"):
        assert await caller.renew(token) == RefusedRenewal("unknown")


async def test_another_client_cannot_use_a_token_and_does_no_harm(caller: Caller) -> None:
    begun = await caller.log_in()

    assert await caller.renew(begun.refresh_token, client_id="phone") == RefusedRenewal("wrong_client")
    assert await caller.renew_well(begun.refresh_token)


async def test_a_login_that_is_not_renewed_for_long_is_over(caller: Caller, clock: Clock) -> None:
    begun = await caller.log_in()
    clock.advance(days=30)

    assert await caller.renew(begun.refresh_token) == RefusedRenewal("expired")


async def test_a_login_is_over_after_its_longest_time_however_often_it_was_renewed(
    caller: Caller, clock: Clock
) -> None:
    begun = await caller.log_in()
    token = begun.refresh_token
    for _ in range(4):
        clock.advance(days=20)
        token = (await caller.renew_well(token)).refresh_token

    clock.advance(days=10)
    assert await caller.renew(token) == RefusedRenewal("expired")
    assert not await caller.is_live(begun.session_id)


async def test_a_login_that_is_ended_cannot_be_renewed(caller: Caller) -> None:
    begun = await caller.log_in()
    async with caller.database.transaction() as session:
        assert await caller.sessions.revoke(session, begun.session_id) is True
        assert await caller.sessions.revoke(session, begun.session_id) is False
        assert await caller.sessions.revoke(session, "none") is False

    assert await caller.renew(begun.refresh_token) == RefusedRenewal("revoked")


async def test_all_logins_of_somebody_end_but_the_one_that_goes_on(caller: Caller) -> None:
    first, second, third = [await caller.log_in() for _ in range(3)]
    stranger = await caller.log_in("8")
    async with caller.database.transaction() as session:
        ended = await caller.sessions.revoke_all(session, "7", except_session=second.session_id)
        assert await caller.sessions.revoke_all(session, "9") == ()

    assert set(ended) == {first.session_id, third.session_id}
    assert [await caller.is_live(each.session_id) for each in (first, second, third, stranger)] == [
        False,
        True,
        False,
        True,
    ]
    async with caller.database.transaction() as session:
        assert await caller.sessions.revoke_all(session, "7") == (second.session_id,)


async def test_a_refresh_token_ends_its_login_also_when_it_was_used(caller: Caller) -> None:
    begun, other = await caller.log_in(), await caller.log_in()
    renewed = await caller.renew_well(begun.refresh_token)
    async with caller.database.transaction() as session:
        revoke = caller.sessions.revoke_token
        assert await revoke(session, renewed.refresh_token, client_id="phone") is None
        assert await revoke(session, "unknown", client_id="web") is None
        assert await revoke(session, begun.refresh_token, client_id="web") == begun.session_id
        assert await revoke(session, other.refresh_token, client_id="web") == other.session_id

    assert await caller.renew(renewed.refresh_token) == RefusedRenewal("revoked")


async def test_callers_that_meet_get_the_same_successor(caller: Caller) -> None:
    begun = await caller.log_in()

    renewals = await asyncio.gather(*(caller.renew(begun.refresh_token) for _ in range(8)))

    assert len({renewal.refresh_token for renewal in renewals if isinstance(renewal, Renewed)}) == 1
    assert await caller.count(refresh_token_table) == 2


@pytest.mark.databases("postgresql")
async def test_without_the_lock_callers_that_meet_get_successors_of_their_own(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault; with it the one who is told last logs the other one out."""
    monkeypatch.setattr(sessions_module, "_find_token", _without_lock(sessions_module._find_token))
    begun = await caller.log_in()

    renewals = await asyncio.gather(*(caller.renew(begun.refresh_token) for _ in range(8)))

    assert len({renewal.refresh_token for renewal in renewals if isinstance(renewal, Renewed)}) > 1


def _without_lock(find: Any) -> Any:
    def find_unlocked(digest: str) -> Any:
        statement = find(digest)
        statement._for_update_arg = None
        return statement

    return find_unlocked


async def test_a_renewal_that_meets_the_end_of_its_login_does_not_undo_it(caller: Caller) -> None:
    begun = await caller.log_in()

    async def end() -> None:
        async with caller.database.transaction() as session:
            await caller.sessions.revoke_all(session, "7")

    await asyncio.gather(caller.renew(begun.refresh_token), end())

    assert not await caller.is_live(begun.session_id)


@pytest.mark.databases("postgresql")
async def test_a_renewal_that_meets_the_deletion_of_its_login_waits_and_does_not_deadlock(
    caller: Caller,
) -> None:
    """Whoever deletes a login locks it first and its tokens then; so does a renewal."""
    begun = await caller.log_in()
    is_it = session_table.c.id == begun.session_id
    async with caller.database.transaction() as deleting:
        await deleting.execute(select(session_table).where(is_it).with_for_update())
        renewing = asyncio.create_task(caller.renew(begun.refresh_token))
        await _wait_for_a_waiting_lock(caller.database)
        await deleting.execute(delete(session_table).where(is_it))

    assert await renewing == RefusedRenewal("unknown")


async def _wait_for_a_waiting_lock(database: Database) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(10), database.reading() as session:
        while not await session.scalar(waiting):  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.01)


class TestSweeping:
    @pytest.fixture(autouse=True)
    def _small_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (_sweeping, sessions_module):
            monkeypatch.setattr(module, "BATCH", 3)

    async def test_a_successor_is_erased_when_nobody_can_ask_for_it(
        self, caller: Caller, clock: Clock
    ) -> None:
        tokens = [(await caller.log_in()).refresh_token for _ in range(4)]
        for token in tokens:
            await caller.renew_well(token)

        await caller.sessions.sweep()
        assert await self._sealed(caller) == 4

        clock.advance(seconds=41)  # the grace, and what clocks may be apart
        assert await caller.sessions.sweep() is True
        assert await caller.sessions.sweep() is False
        assert await self._sealed(caller) == 0
        assert isinstance(await caller.renew(tokens[0]), ReuseDetected)

    async def _sealed(self, caller: Caller) -> int:
        async with caller.database.reading() as session:
            sealed = await session.scalars(select(refresh_token_table.c.successor_sealed))
            return sum(each is not None for each in sealed)

    async def test_what_has_expired_is_deleted_and_the_rest_stays(self, caller: Caller, clock: Clock) -> None:
        for _ in range(4):
            await caller.log_in()
        clock.advance(days=29)
        kept = await caller.log_in()
        clock.advance(days=1)

        while await caller.sessions.sweep():
            pass
        assert await caller.count(refresh_token_table) == 1
        assert await caller.count(session_table) == 5  # they are over, and still known

        clock.advance(days=60)
        while await caller.sessions.sweep():
            pass
        assert await caller.count(session_table) == 1
        assert await self._names(caller) == [kept.session_id]

    async def _names(self, caller: Caller) -> Sequence[str]:
        async with caller.database.reading() as session:
            return (await session.scalars(select(session_table.c.id))).all()

    async def test_a_login_takes_its_tokens_along(self, caller: Caller, clock: Clock) -> None:
        caller.sessions._refresh_ttl = timedelta(days=400)
        await caller.log_in()
        clock.advance(days=91)

        await caller.sessions.sweep()

        assert await caller.count(session_table) == await caller.count(refresh_token_table) == 0


async def test_one_of_two_tokens_with_the_same_digest_is_refused(caller: Caller, database: Database) -> None:
    """Never seen: it would take two equal tokens of 256 bits."""

    class Stuck:
        def new_token(self) -> str:
            return "same"

        hash_token = staticmethod(hash_token)
        seal = staticmethod(opaque.seal)
        unseal = staticmethod(opaque.unseal)

    stuck = Caller(database, Sessions(database, SecuritySettings(), Stuck()))
    await stuck.log_in()
    with pytest.raises(DBAPIError):
        await stuck.log_in()

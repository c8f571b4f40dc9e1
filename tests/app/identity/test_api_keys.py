"""API keys: made once, good for as much as their owner, and gone at once."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import update

from backstay import Principal, create_app, issue_api_key, list_api_keys, revoke_api_key
from backstay.db import Database
from backstay.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from backstay.settings import Settings
from identity_service import Member, Members, bearer, calling, make_router, make_service

pytestmark = pytest.mark.databases("sqlite", "postgresql")

Register = Callable[..., Awaitable[Member]]


@pytest.fixture
async def principal(register: Register) -> Principal:
    ada = await register()
    return Principal(str(ada.id), frozenset({"read", "write"}))


async def _issue(database: Database, principal: Principal, **values: Any) -> str:
    async with database.transaction() as session:
        new = await issue_api_key(session, principal, **{"name": "nightly", "scopes": ["read"], **values})
    assert new.key.get_secret_value() not in repr(new)
    return new.key.get_secret_value()


async def test_it_lets_a_program_in(client: AsyncClient, principal: Principal, database: Database) -> None:
    key = await _issue(database, principal)

    caller = await client.get("/me", headers=bearer(key))

    assert key.startswith("service_")
    assert caller.json() == {"subject": principal.subject, "scopes": ["read"], "kind": "api_key"}
    assert (await client.get("/admin", headers=bearer(key))).status_code == 403


async def test_one_that_was_looked_for_before_it_was_made_is_found(
    client: AsyncClient, principal: Principal, database: Database
) -> None:
    key = await _issue(database, principal)
    other = await _issue(database, principal)
    forged = f"{key[:-6]}{other[-6:]}"

    assert (await client.get("/me", headers=bearer(forged))).status_code == 401
    assert (await client.get("/me", headers=bearer(key))).status_code == 200


async def test_it_can_no_more_than_its_owner_may_at_the_time(
    client: AsyncClient, principal: Principal, database: Database
) -> None:
    key = await _issue(database, principal, scopes=["read", "write"])
    async with database.transaction() as session:
        await session.execute(update(Member).values(scopes="read admin"))

    assert (await client.get("/me", headers=bearer(key))).json()["scopes"] == ["read"]

    async with database.transaction() as session:
        await session.execute(update(Member).values(is_active=False))
    assert (await client.get("/me", headers=bearer(key))).status_code == 401


async def test_it_is_gone_with_the_commit_that_ends_it(
    client: AsyncClient, principal: Principal, database: Database
) -> None:
    key, other = await _issue(database, principal), await _issue(database, principal)
    assert (await client.get("/me", headers=bearer(key))).status_code == 200

    async with database.transaction() as session:
        listed = await list_api_keys(session, principal)
        await revoke_api_key(session, principal, key_id=key.split("_")[1])

    assert {record.name for record in listed} == {"nightly"}
    assert (await client.get("/me", headers=bearer(key))).status_code == 401
    assert (await client.get("/me", headers=bearer(other))).status_code == 200


async def test_it_ends_by_itself(
    app: FastAPI, client: AsyncClient, principal: Principal, database: Database
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)  # on a busy machine a request takes a while
    key = await _issue(database, principal, expires_at=soon)
    assert (await client.get("/me", headers=bearer(key))).status_code == 200

    await asyncio.sleep((soon - datetime.now(UTC)).total_seconds() + 0.01)

    assert (await client.get("/me", headers=bearer(key))).status_code == 401


async def test_nobody_ends_or_makes_what_is_not_theirs(
    client: AsyncClient, principal: Principal, database: Database
) -> None:
    key = await _issue(database, principal)
    stranger = Principal("somebody else", frozenset({"read"}))

    async with database.transaction() as session:
        assert await list_api_keys(session, stranger) == ()
        with pytest.raises(NotFoundError):
            await revoke_api_key(session, stranger, key_id=key.split("_")[1])
        with pytest.raises(PermissionDeniedError):
            await issue_api_key(session, stranger, name="x", scopes=["read", "write"])
        for wrong in ({"name": ""}, {"name": "x" * 256}, {"name": "x", "expires_at": datetime.now(UTC)}):
            with pytest.raises(InvalidInputError):
                await issue_api_key(session, stranger, **wrong)

    assert (await client.get("/me", headers=bearer(key))).status_code == 200


async def test_a_key_changes_no_password(
    client: AsyncClient, principal: Principal, database: Database
) -> None:
    key = await _issue(database, principal)
    body = {"currentPassword": "x", "newPassword": "y"}

    assert (await client.post("/account/password", json=body, headers=bearer(key))).status_code == 403
    assert (await client.post("/account/verification/request", headers=bearer(key))).status_code == 403


class TestWithout:
    async def test_a_service_of_programs_has_no_accounts(
        self, settings: Settings, database: Database
    ) -> None:
        app = create_app(settings, routers=[make_router()], api_keys=True)
        program = Principal("robot", frozenset({"read"}))

        async with app.router.lifespan_context(app):
            key = await _issue(app.state.backstay.database, program)
            async with calling(app) as caller:
                assert (await caller.get("/me", headers=bearer(key))).json()["subject"] == "robot"
                assert (await caller.get("/me", headers=bearer("a.b.c"))).status_code == 401
                assert (await caller.post("/oauth/token")).status_code == 404

    async def test_an_app_without_them_takes_none(
        self, settings: Settings, members: Members, principal: Principal, database: Database
    ) -> None:
        key = await _issue(database, principal)
        app = make_service(settings, members)

        async with app.router.lifespan_context(app), calling(app) as caller:
            assert (await caller.get("/me", headers=bearer(key))).status_code == 401

    def test_only_the_tables_that_are_needed_are_asked_for(
        self, settings: Settings, members: Members
    ) -> None:
        def tables(app: FastAPI) -> set[str]:
            return {table.name.removeprefix("backstay_") for table in app.state.backstay.library_tables}

        of_accounts = {"sessions", "refresh_tokens", "one_time_tokens"}
        assert tables(make_service(settings, members)) == of_accounts
        assert tables(make_service(settings, members, api_keys=True)) == {*of_accounts, "api_keys"}
        assert tables(create_app(settings, api_keys=True)) == {"api_keys"}
        assert tables(create_app(settings)) == set()

"""Changing and resetting passwords, and verifying addresses."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import select, update

from backstay.app.accounts import ResetMessage, VerificationMessage
from backstay.db import Database
from identity_service import PASSWORD, Member, Members, bearer, log_in, refresh

Register = Callable[..., Awaitable[Member]]
NEW = "two otters and a lighthouse"
EMAIL = "ada@example.org"


async def _change(client: AsyncClient, token: str, current: str = PASSWORD, new: str = NEW) -> Any:
    body = {"currentPassword": current, "newPassword": new}
    return await client.post("/account/password", json=body, headers=bearer(token))


async def _reset(client: AsyncClient, token: str, new: str = NEW) -> Any:
    return await client.post("/account/password/reset", json={"token": token, "newPassword": new})


async def _ask_for_reset(client: AsyncClient, members: Members, login: str = EMAIL) -> str:
    response = await client.post("/account/password/reset/request", json={"login": login})
    assert (response.status_code, response.content) == (202, b"")
    message = await members.next_message()
    assert isinstance(message, ResetMessage)
    return message.token.get_secret_value()


class TestChange:
    @pytest.mark.databases("sqlite", "postgresql")
    async def test_it_takes_the_old_one_and_ends_the_other_logins(
        self, register: Register, client: AsyncClient
    ) -> None:
        await register()
        own, other = [(await log_in(client, EMAIL)).json() for _ in range(2)]

        response = await _change(client, own["access_token"])

        assert (response.status_code, response.content) == (204, b"")
        assert (await client.get("/me", headers=bearer(own["access_token"]))).status_code == 200
        assert (await client.get("/me", headers=bearer(other["access_token"]))).status_code == 401
        assert (await refresh(client, own["refresh_token"])).status_code == 200
        assert (await refresh(client, other["refresh_token"])).status_code == 400
        assert (await log_in(client, EMAIL)).status_code == 400
        assert (await log_in(client, EMAIL, NEW)).status_code == 200

    async def test_who_does_not_know_the_old_one_changes_nothing(
        self, register: Register, client: AsyncClient
    ) -> None:
        await register()
        tokens = (await log_in(client, EMAIL)).json()

        tried = [await _change(client, tokens["access_token"], current="wrong") for _ in range(6)]

        assert [one.status_code for one in tried] == [403] * 5 + [429]
        assert tried[0].json()["code"] == "wrong_password"
        assert (await log_in(client, EMAIL)).status_code == 200

    @pytest.mark.parametrize("weak", ["tiny oar", "aaaaaaaaaaaaaaaaaaaa", "ada@example.org ada", "x" * 2000])
    async def test_a_weak_one_is_refused_without_being_repeated(
        self, register: Register, client: AsyncClient, weak: str
    ) -> None:
        await register()
        tokens = (await log_in(client, EMAIL)).json()

        response = await _change(client, tokens["access_token"], new=weak)

        assert (response.status_code, response.json()["code"]) == (422, "weak_password")
        assert weak not in response.text
        assert (await log_in(client, EMAIL)).status_code == 200


@pytest.mark.databases("sqlite", "postgresql")
class TestReset:
    async def test_its_token_works_once_and_ends_every_login(
        self, register: Register, client: AsyncClient, members: Members
    ) -> None:
        await register()
        before = (await log_in(client, EMAIL)).json()
        token = await _ask_for_reset(client, members)

        first, second = await _reset(client, token), await _reset(client, token, "another one, as long")

        assert (first.status_code, second.status_code, second.json()["code"]) == (204, 400, "one_time_token")
        assert (await client.get("/me", headers=bearer(before["access_token"]))).status_code == 401
        assert (await log_in(client, EMAIL, NEW)).status_code == 200

    async def test_a_weak_password_does_not_use_it_up(
        self, register: Register, client: AsyncClient, members: Members
    ) -> None:
        await register()
        token = await _ask_for_reset(client, members)

        assert (await _reset(client, token, "short")).json()["code"] == "weak_password"
        assert (await _reset(client, token, f"{EMAIL} 1")).json()["code"] == "weak_password"
        assert (await _reset(client, token)).status_code == 204

    async def test_a_password_that_changed_meanwhile_voids_it(
        self, register: Register, client: AsyncClient, members: Members
    ) -> None:
        await register()
        token = await _ask_for_reset(client, members)
        await _change(client, (await log_in(client, EMAIL)).json()["access_token"])

        assert (await _reset(client, token, "another one, as long")).status_code == 400

    async def test_unknown_and_inactive_accounts_get_the_answer_and_no_message(
        self, register: Register, client: AsyncClient, members: Members, app: FastAPI
    ) -> None:
        await register("gone@example.org", is_active=False)

        for login in ("gone@example.org", "nobody@example.org"):
            response = await client.post("/account/password/reset/request", json={"login": login})
            assert (response.status_code, response.content) == (202, b"")
        await register()
        await _ask_for_reset(client, members)

        assert [message.address for message in members.delivered] == [EMAIL]

    async def test_no_account_is_flooded_with_messages(
        self, register: Register, client: AsyncClient, members: Members
    ) -> None:
        await register()
        asked = [
            (await client.post("/account/password/reset/request", json={"login": EMAIL})).status_code
            for _ in range(4)
        ]

        assert asked == [202, 202, 202, 429]

    @pytest.mark.parametrize("token", ["x", "é" * 40, "0" * 4096])
    async def test_what_is_no_token_is_refused(self, client: AsyncClient, token: str) -> None:
        response = await _reset(client, token)

        assert (response.status_code, response.json()["code"]) == (400, "one_time_token")


class TestVerification:
    async def test_it_confirms_the_address_once(
        self, register: Register, client: AsyncClient, members: Members, database: Database
    ) -> None:
        await register()
        tokens = (await log_in(client, EMAIL)).json()
        asked = await client.post("/account/verification/request", headers=bearer(tokens["access_token"]))
        message = await members.next_message()
        assert isinstance(message, VerificationMessage)
        body = {"token": message.token.get_secret_value()}

        statuses = [(await client.post("/account/verification", json=body)).status_code for _ in range(2)]

        async with database.reading() as session:
            is_verified = await session.scalar(select(Member.is_verified))
        assert (asked.status_code, statuses, is_verified) == (202, [204, 400], True)

    async def test_another_address_needs_another_message(
        self, register: Register, client: AsyncClient, members: Members, database: Database
    ) -> None:
        await register()
        tokens = (await log_in(client, EMAIL)).json()
        await client.post("/account/verification/request", headers=bearer(tokens["access_token"]))
        message = await members.next_message()
        async with database.transaction() as session:
            await session.execute(update(Member).values(email="ada@example.com"))

        response = await client.post(
            "/account/verification", json={"token": message.token.get_secret_value()}
        )

        assert response.status_code == 400

    async def test_no_token_is_good_for_the_other_purpose(
        self, register: Register, client: AsyncClient, members: Members
    ) -> None:
        await register()
        token = await _ask_for_reset(client, members)

        assert (await client.post("/account/verification", json={"token": token})).status_code == 400
        assert (await _reset(client, token)).status_code == 204

    async def test_a_new_account_gets_its_message_with_the_commit(
        self, client: AsyncClient, members: Members
    ) -> None:
        body = {"email": "new@example.org", "password": PASSWORD}

        assert (await client.post("/members", json=body | {"password": "short"})).status_code == 422
        assert (await client.post("/members", json=body)).status_code == 201

        message = await members.next_message()
        assert [one.address for one in members.delivered] == ["new@example.org"]
        response = await client.post(
            "/account/verification", json={"token": message.token.get_secret_value()}
        )
        assert response.status_code == 204
        assert (await log_in(client, "new@example.org")).status_code == 200

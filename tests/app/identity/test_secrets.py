"""Secrets appear nowhere: logs, problems, OpenAPI, reprs, traces, the database."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import MetaData, select

from backstay import Principal, issue_api_key
from backstay.db import Database
from backstay.settings import LoggingSettings, Settings
from identity_service import Member, Members, bearer, log_in, refresh

pytestmark = pytest.mark.databases("sqlite", "postgresql")

Register = Callable[..., Awaitable[Member]]
CANARIES = {
    "password": "canary-one-a-lighthouse-keeper",
    "new password": "canary-two-a-lighthouse-keeper",
    "last password": "canary-three-a-lighthouse-keeper",
    "wrong password": "canary-four-a-lighthouse-keeper",
    "weak password": "canary-five",
    "typed as a login": "canary-six-a-lighthouse-keeper",
    "bad token": "canary-seven.canary-seven.canary-seven",
    "bad refresh token": "canary-eight-a-lighthouse-keeper",
    "client secret": "canary-nine-a-lighthouse-keeper",
}
EMAIL = "ada@example.org"


class Collected:
    """Everything that came out, besides the answers that are there to bring a secret."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.secrets = dict(CANARIES)

    def take(self, *things: object) -> None:
        self.texts += [str(thing) for thing in things] + [repr(thing) for thing in things]

    def found(self) -> list[str]:
        text = "\n".join(self.texts)
        assert len(text) > 10_000
        return [name for name, secret in self.secrets.items() if secret in text]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    chatty = LoggingSettings(level="DEBUG", format="json")
    return settings.model_copy(update={"logging": chatty})


async def test_canaries_are_found_nowhere(
    register: Register,
    app: FastAPI,
    client: AsyncClient,
    database: Database,
    members: Members,
    capfd: pytest.CaptureFixture[str],
    events: Any,
) -> None:
    installation, collected = app.state.backstay, Collected()
    installation.configure_logging()
    await register(password=CANARIES["password"])
    await _live(app, client, members, database, collected)
    logs, talk = capfd.readouterr()
    collected.take(logs, talk, list(events), app.openapi(), *members.delivered, *await _read_rows(database))
    identity = installation.identity
    collected.take(installation, installation.settings, identity, identity.tokens, identity.sessions)

    assert collected.found() == []
    assert {"login failed", "login succeeded", "password changed", "password reset"} <= _events_in(logs)


def _events_in(logs: str) -> set[str]:
    return {json.loads(line)["event"] for line in logs.splitlines() if line.startswith("{")}


async def _live(
    app: FastAPI, client: AsyncClient, members: Members, database: Database, collected: Collected
) -> None:
    """Do all that can be done with secrets, well and badly."""
    tokens = (await log_in(client, EMAIL, CANARIES["password"])).json()
    collected.secrets |= {name: tokens[name] for name in ("access_token", "refresh_token")}
    renewed = (await refresh(client, tokens["refresh_token"])).json()
    collected.secrets |= {f"renewed {name}": renewed[name] for name in ("access_token", "refresh_token")}
    own = bearer(renewed["access_token"])
    async with database.transaction() as session:
        me = (await client.get("/me", headers=own)).json()["subject"]
        key = await issue_api_key(session, Principal(me), name="k")
    collected.secrets["api key"] = key.key.get_secret_value()
    collected.take(key, await client.get("/me", headers=bearer(key.key.get_secret_value())))
    answers = [
        await client.post("/oauth/token", data={"grant_type": CANARIES["wrong password"]}),
        await log_in(client, EMAIL, CANARIES["wrong password"]),
        await log_in(client, CANARIES["typed as a login"], CANARIES["wrong password"]),
        await log_in(client, EMAIL, CANARIES["password"], client_secret=CANARIES["client secret"]),
        await log_in(client, EMAIL, CANARIES["password"], scope=CANARIES["wrong password"]),
        await refresh(client, CANARIES["bad refresh token"]),
        await client.get("/me", headers=bearer(CANARIES["bad token"])),
        await client.get("/admin", headers=own),
        await _change(client, own, CANARIES["wrong password"], CANARIES["new password"]),
        await _change(client, own, CANARIES["password"], CANARIES["weak password"]),
        await client.post("/account/password", json={"currentPassword": CANARIES["password"]}, headers=own),
        await client.post("/account/password", json=CANARIES, headers=own),
        await _change(client, own, CANARIES["password"], CANARIES["new password"]),
        await client.post("/account/password/reset/request", json={"login": CANARIES["typed as a login"]}),
        await client.post("/account/password/reset/request", json={"login": EMAIL}),
    ]
    reset = (await members.next_message()).token.get_secret_value()
    collected.secrets["reset token"] = reset
    body = {"token": reset, "newPassword": CANARIES["last password"]}
    answers += [
        await client.post("/account/password/reset", json={**body, "newPassword": CANARIES["weak password"]}),
        await client.post("/account/password/reset", json=body),
        await client.post("/account/password/reset", json=body),
        await client.post("/account/verification", json={"token": CANARIES["bad refresh token"]}),
        await client.post("/oauth/revoke", data={"token": renewed["refresh_token"]}),
        await _fail_with_everything(app, client, renewed["access_token"]),
    ]
    collected.take([answer.status_code for answer in answers])
    for answer in answers:
        collected.take(answer.text, dict(answer.headers))
    assert sorted({answer.status_code for answer in answers}) == [200, 202, 204, 400, 401, 403, 422, 500]


async def _change(client: AsyncClient, own: dict[str, str], current: str, new: str) -> Any:
    return await client.post(
        "/account/password", json={"currentPassword": current, "newPassword": new}, headers=own
    )


async def _fail_with_everything(app: FastAPI, client: AsyncClient, token: str) -> Any:
    """A bug below a route that is called with credentials: its traceback is logged."""

    async def breaks(session: Any, login: str) -> None:
        raise RuntimeError("the accounts are on fire")

    app.state.backstay.identity.accounts.find = breaks
    return await log_in(client, EMAIL, CANARIES["last password"])


async def _read_rows(database: Database) -> list[object]:
    tables = MetaData()
    async with database.reading() as session:
        connection = await session.connection()
        await connection.run_sync(tables.reflect)
        return [row for table in tables.sorted_tables for row in await session.execute(select(table))]

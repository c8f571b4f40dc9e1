"""Spans of logins hold nothing that lets anybody in."""

from typing import Any

import pytest
from sqlalchemy import MetaData

from backstay.settings import Settings, TelemetrySettings
from identity_service import IdentityBase, Members, add_member, bearer, calling, log_in, make_service, secured

SAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
PASSWORD = "canary-one-a-lighthouse-keeper"
OTHERS = ["canary-two-a-lighthouse-keeper", "canary.three.token", "canary-four-typed-as-a-login"]


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return IdentityBase.metadata


async def test_neither_passwords_nor_tokens_are_in_them(
    settings: Settings, receiver: Any, database: Any
) -> None:
    traced = secured(settings.model_copy(update={"telemetry": TelemetrySettings(traces=True)}))
    app = make_service(traced, Members())
    async with app.router.lifespan_context(app), calling(app) as client:
        client.headers.update(SAMPLED)
        await add_member(
            database, app.state.backstay.identity.passwords, "ada@example.org", password=PASSWORD
        )
        tokens = (await log_in(client, "ada@example.org", PASSWORD)).json()
        await log_in(client, "ada@example.org", OTHERS[0])
        await log_in(client, OTHERS[2], OTHERS[0])
        await client.get("/me", headers=bearer(OTHERS[1]))
        await client.get("/me", headers=bearer(tokens["access_token"]))
        await client.post("/oauth/revoke", data={"token": tokens["refresh_token"]})

    names = {span.name for span in receiver.spans}
    secrets = [PASSWORD, *OTHERS, tokens["access_token"], tokens["refresh_token"]]
    assert {"POST /oauth/token", "GET /me", "POST /oauth/revoke", "SELECT", "INSERT"} <= names
    assert [secret for secret in secrets if secret.encode() in receiver.raw] == []

"""What others make of it: an OAuth client that knows nothing of us, and the Authorize button."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from authlib.integrations.httpx_client import (  # type: ignore[import-untyped]  # it ships no types
    AsyncOAuth2Client,
    OAuthError,
)
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from openapi_spec_validator import validate

from backstay import OptionalPrincipalDep, create_app, public
from backstay.settings import ServerSettings, Settings
from identity_service import PASSWORD, Member, Members, make_service

Register = Callable[..., Awaitable[Member]]
EMAIL = "ada@example.org"
TOKENS = "http://testserver/oauth/token"


@asynccontextmanager
async def _oauth_client(app: FastAPI, **options: Any) -> AsyncIterator[Any]:
    transport = ASGITransport(app=app)
    options = {"client_id": "web", "token_endpoint_auth_method": "none", **options}
    async with AsyncOAuth2Client(transport=transport, base_url="http://testserver", **options) as client:
        yield client


class TestAuthlib:
    async def test_it_finds_the_endpoints_logs_in_calls_and_logs_out(
        self, register: Register, app: FastAPI
    ) -> None:
        ada = await register()
        async with _oauth_client(app) as client:
            path = "/.well-known/oauth-authorization-server"
            found = await client.request("GET", path, withhold_token=True)
            token = await client.fetch_token(
                found.json()["token_endpoint"].replace("127.0.0.1:8000", "testserver"),
                grant_type="password",
                username=EMAIL,
                password=PASSWORD,
                scope="read",
            )
            caller = await client.get("/me")
            await client.revoke_token("http://testserver/oauth/revoke", token=token["refresh_token"])
            after = await client.get("/me")

        assert (token["token_type"], token["scope"]) == ("Bearer", "read")
        assert caller.json()["subject"] == str(ada.id)
        assert after.status_code == 401

    async def test_it_refreshes_when_a_token_has_expired(self, register: Register, app: FastAPI) -> None:
        await register()
        kept: list[Any] = []

        async def keep(token: Any, **_: Any) -> None:
            kept.append(token)

        async with _oauth_client(app, token_endpoint=TOKENS, update_token=keep) as client:
            first = await client.fetch_token(TOKENS, grant_type="password", username=EMAIL, password=PASSWORD)
            client.token["expires_at"] = 1

            assert (await client.get("/me")).status_code == 200

        assert [token["refresh_token"] != first["refresh_token"] for token in kept] == [True]

    async def test_it_understands_a_refusal(self, register: Register, app: FastAPI) -> None:
        await register()
        async with _oauth_client(app) as client:
            with pytest.raises(OAuthError) as refused:
                await client.fetch_token(TOKENS, grant_type="password", username=EMAIL, password="wrong")

        assert (refused.value.error, refused.value.description) == (
            "invalid_grant",
            "The name or the password is wrong.",
        )


class TestDocument:
    def test_it_says_how_callers_show_who_they_are(self, settings: Settings, members: Members) -> None:
        mounted = settings.model_copy(update={"server": ServerSettings(root_path="/shop")})
        app = make_service(mounted, members, api_keys=True)

        @app.get("/perhaps", dependencies=[public])
        async def read_perhaps(principal: OptionalPrincipalDep) -> None: ...

        document = app.openapi()
        validate(document)

        url = "/shop/oauth/token"
        flow = {"tokenUrl": url, "refreshUrl": url, "scopes": {"admin": ""}}
        assert document["components"]["securitySchemes"]["Login"] == {
            "type": "oauth2",
            "flows": {"password": flow},
        }
        operations = {path: next(iter(item.values())) for path, item in document["paths"].items()}
        assert operations["/admin"]["security"] == [{"Login": ["admin"]}, {"ApiKey": ["admin"]}]
        assert operations["/me"]["security"] == [{"Login": []}, {"ApiKey": []}]
        assert operations["/perhaps"]["security"] == [{}, {"Login": []}, {"ApiKey": []}]
        assert "security" not in operations["/open"]
        assert {"401", "403"} <= set(operations["/admin"]["responses"])
        assert "403" not in operations["/me"]["responses"]

    async def test_the_authorize_button_works(self, register: Register, client: AsyncClient) -> None:
        """What Swagger UI sends: a form, and empty client credentials in a Basic header."""
        await register()
        document = (await client.get("/openapi.json")).json()
        flows = document["components"]["securitySchemes"]["Login"]["flows"]
        token_url = flows["password"]["tokenUrl"]
        form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD, "scope": "admin"}

        refused = await client.post(token_url, data=form, auth=("", ""))
        response = await client.post(token_url, data={**form, "scope": ""}, auth=("", ""))

        assert refused.json()["error"] == "invalid_scope"
        authorized = {"Authorization": f"Bearer {response.json()['access_token']}"}
        assert (await client.get("/me", headers=authorized)).status_code == 200

    def test_without_accounts_it_says_nothing(self, settings: Settings) -> None:
        assert "securitySchemes" not in create_app(settings).openapi().get("components", {})

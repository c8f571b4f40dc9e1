"""Logging in, going on and logging out: RFC 6749 and 7009 to the letter."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from sqlalchemy import update

from backstay.db import Database
from backstay.logging import captured_logs
from backstay.settings import SecuritySettings, Settings
from identity_service import (
    PASSWORD,
    WEAK_HASHING,
    Member,
    Members,
    bearer,
    calling,
    log_in,
    make_service,
    refresh,
)

Register = Callable[..., Awaitable[Member]]
NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


def _error(response: Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"error", "error_description"}
    assert response.headers["content-type"] == "application/json"
    assert NO_STORE.items() <= dict(response.headers).items()
    return response.status_code, body["error"]


class TestPasswordGrant:
    async def test_it_gives_tokens_that_say_who_calls(self, register: Register, client: AsyncClient) -> None:
        ada = await register()

        response = await log_in(client, "Ada@example.org")

        tokens = response.json()
        assert response.status_code == 200
        assert NO_STORE.items() <= dict(response.headers).items()
        assert set(tokens) == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
        assert (tokens["token_type"], tokens["expires_in"], tokens["scope"]) == ("Bearer", 900, "read write")
        caller = await client.get("/me", headers=bearer(tokens["access_token"]))
        assert caller.json() == {"subject": str(ada.id), "scopes": ["read", "write"], "kind": "user"}

    @pytest.mark.parametrize(
        ("form", "error"),
        [
            ({}, "invalid_request"),
            ({"grant_type": ""}, "invalid_request"),
            ({"grant_type": "password"}, "invalid_request"),
            ({"grant_type": "password", "username": "ada@example.org"}, "invalid_request"),
            ({"grant_type": "password", "username": "ada@example.org", "password": ""}, "invalid_request"),
            ({"grant_type": "refresh_token"}, "invalid_request"),
            ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
            ({"grant_type": "authorization_code", "code": "x"}, "unsupported_grant_type"),
            ({"grant_type": "refresh_token", "refresh_token": "nobody's"}, "invalid_grant"),
            (
                {"grant_type": "password", "username": "bob@example.org", "password": PASSWORD},
                "invalid_grant",
            ),
            ({"grant_type": "password", "username": "ada@example.org", "password": "x"}, "invalid_grant"),
        ],
    )
    async def test_what_is_wrong_has_the_word_of_the_standard(
        self, register: Register, client: AsyncClient, form: dict[str, str], error: str
    ) -> None:
        await register()

        assert _error(await client.post("/oauth/token", data=form)) == (400, error)

    @pytest.mark.parametrize(
        ("content", "media_type"),
        [
            (
                "grant_type=password&grant_type=password&username=a&password=b",
                "application/x-www-form-urlencoded",
            ),
            ('{"grant_type": "password"}', "application/json"),
            ("grant_type=password", "text/plain"),
            ("grant_type=password", ""),
        ],
    )
    async def test_a_form_that_is_none_is_an_invalid_request(
        self, register: Register, client: AsyncClient, content: str, media_type: str
    ) -> None:
        response = await client.post("/oauth/token", content=content, headers={"Content-Type": media_type})

        assert _error(response) == (400, "invalid_request")

    @pytest.mark.parametrize(
        ("wanted", "granted"),
        [
            ("read", "read"),
            ("read admin", "read"),
            ("write read", "read write"),
            ("admin", None),
            ("", "read write"),
        ],
    )
    async def test_scopes_may_be_narrowed_and_not_widened(
        self, register: Register, client: AsyncClient, wanted: str, granted: str | None
    ) -> None:
        await register()

        response = await log_in(client, "ada@example.org", scope=wanted)

        if granted is None:
            assert _error(response) == (400, "invalid_scope")
        else:
            assert response.json()["scope"] == granted

    @pytest.mark.parametrize("scope", ["read  write", 'a"b', " read", "é"])
    async def test_what_is_no_scope_is_refused(
        self, register: Register, client: AsyncClient, scope: str
    ) -> None:
        await register()

        assert _error(await log_in(client, "ada@example.org", scope=scope)) == (400, "invalid_scope")

    @pytest.mark.parametrize("values", [{"is_active": False}, {"password": "another one, much longer"}])
    async def test_who_may_not_log_in_hears_what_everybody_hears(
        self, register: Register, client: AsyncClient, values: dict[str, Any]
    ) -> None:
        await register(**values)

        refused = await log_in(client, "ada@example.org")
        unknown = await log_in(client, "nobody@example.org")

        assert refused.content == unknown.content
        assert _error(refused) == _error(unknown) == (400, "invalid_grant")
        volatile = {"x-request-id", "ratelimit"}
        assert [name for name in refused.headers if refused.headers[name] != unknown.headers[name]] in (
            [name for name in refused.headers if name in volatile],
            ["x-request-id", "ratelimit"],
        )

    async def test_an_account_without_a_password_lets_nobody_in(
        self, register: Register, client: AsyncClient, database: Database
    ) -> None:
        await register()
        async with database.transaction() as session:
            await session.execute(update(Member).values(password_hash=None))

        for password in ("", PASSWORD, "None"):
            assert (await log_in(client, "ada@example.org", password)).status_code == 400

    async def test_a_hash_of_other_settings_is_made_anew(
        self, register: Register, client: AsyncClient, database: Database, app: FastAPI
    ) -> None:
        old = await register()
        stronger = SecuritySettings(**{**WEAK_HASHING, "argon2_time_cost": 2})
        from backstay.security.passwords import Passwords

        async with Passwords(stronger) as passwords:
            app.state.backstay.identity.passwords = passwords
            assert (await log_in(client, "ada@example.org")).status_code == 200

        async with database.reading() as session:
            now = await session.get_one(Member, old.id)
        assert ",t=2," in str(now.password_hash)
        assert ",t=1," in str(old.password_hash)


@pytest.mark.databases("sqlite", "postgresql")
class TestHostileInput:
    @pytest.mark.parametrize(
        "text", ["\0", "%00", "%ED%A0%80", "%FF%FE", "a" * 100_000, "' OR 1=1 --", "%F0%9F%A6%AD" * 50]
    )
    async def test_no_form_becomes_a_500(self, register: Register, client: AsyncClient, text: str) -> None:
        await register()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        for form in (
            f"grant_type=password&username={text}&password=x",
            f"grant_type=password&username=ada@example.org&password={text}",
            f"grant_type=password&username=ada@example.org&password=x&client_id={text}",
            f"grant_type=refresh_token&refresh_token={text}",
            f"grant_type={text}",
        ):
            for path in ("/oauth/token", "/oauth/revoke"):
                content = form if path == "/oauth/token" else f"token={text}"
                response = await client.post(path, content=content.encode(), headers=headers)
                assert response.status_code in {200, 400, 401}, (form[:80], response.text)
                assert response.headers["cache-control"] == "no-store"


class TestClients:
    async def test_swagger_ui_sends_an_empty_name_and_an_empty_secret(
        self, register: Register, client: AsyncClient
    ) -> None:
        await register()
        form = {"grant_type": "password", "username": "ada@example.org", "password": PASSWORD}

        response = await client.post("/oauth/token", data=form, auth=("", ""))

        assert response.status_code == 200

    @pytest.mark.parametrize(
        ("auth", "form"),
        [(("web", "secret"), {}), (("web", ""), {"client_id": "other"}), (None, {"client_secret": "x"})],
    )
    async def test_nobody_has_a_secret(
        self, register: Register, client: AsyncClient, auth: Any, form: dict[str, str]
    ) -> None:
        await register()
        form = {"grant_type": "password", "username": "ada@example.org", "password": PASSWORD, **form}

        response = await client.post("/oauth/token", data=form, auth=auth)

        assert _error(response) == (401, "invalid_client")
        assert response.headers.get("www-authenticate") == ('Basic realm="clients"' if auth else None)

    @pytest.mark.parametrize("credentials", ["Basic", "Basic !", "basic d2Vi:x"])
    async def test_credentials_that_cannot_be_read_are_an_unknown_client(
        self, client: AsyncClient, credentials: str
    ) -> None:
        headers = {"Authorization": credentials}

        response = await client.post("/oauth/token", data={"grant_type": "password"}, headers=headers)

        assert response.status_code in {400, 401}
        assert response.json()["error"] in {"invalid_client", "invalid_request"}

    async def test_a_bearer_token_that_comes_along_is_not_looked_at(
        self, register: Register, client: AsyncClient
    ) -> None:
        await register()
        form = {"grant_type": "password", "username": "ada@example.org", "password": PASSWORD}

        assert (await client.post("/oauth/token", data=form, headers=bearer("stale"))).status_code == 200

    async def test_a_login_belongs_to_its_client(self, register: Register, client: AsyncClient) -> None:
        await register()
        tokens = (await log_in(client, "ada@example.org", client_id="web")).json()

        stolen = await refresh(client, tokens["refresh_token"], client_id="other")
        await client.post("/oauth/revoke", data={"token": tokens["refresh_token"], "client_id": "other"})
        own = await refresh(client, tokens["refresh_token"], client_id="web")

        assert _error(stolen) == (400, "invalid_grant")
        assert own.status_code == 200


@pytest.mark.databases("sqlite", "postgresql")
class TestRefresh:
    async def test_it_gives_another_of_each(self, register: Register, client: AsyncClient) -> None:
        await register()
        first = (await log_in(client, "ada@example.org")).json()

        second = (await refresh(client, first["refresh_token"])).json()

        assert set(second) == set(first)
        assert second["refresh_token"] != first["refresh_token"]
        assert (await client.get("/me", headers=bearer(second["access_token"]))).status_code == 200

    async def test_a_lost_answer_is_given_again(self, register: Register, client: AsyncClient) -> None:
        await register()
        first = (await log_in(client, "ada@example.org")).json()

        lost = (await refresh(client, first["refresh_token"])).json()
        again = (await refresh(client, first["refresh_token"])).json()

        assert lost["refresh_token"] == again["refresh_token"]
        assert (await refresh(client, again["refresh_token"])).status_code == 200

    async def test_reuse_ends_the_login_although_the_answer_is_an_error(
        self, register: Register, client: AsyncClient, app: FastAPI
    ) -> None:
        await register()
        app.state.backstay.identity.sessions._grace = timedelta(0)
        first = (await log_in(client, "ada@example.org")).json()
        second = (await refresh(client, first["refresh_token"])).json()
        assert (await client.get("/me", headers=bearer(second["access_token"]))).status_code == 200

        with captured_logs() as logs:
            reused = await refresh(client, first["refresh_token"])

        assert _error(reused) == (400, "invalid_grant")
        assert [line["event"] for line in logs if line["level"] == "warning"] == ["refresh token reused"]
        assert _error(await refresh(client, second["refresh_token"])) == (400, "invalid_grant")
        for tokens in (first, second):
            response = await client.get("/me", headers=bearer(tokens["access_token"]))
            assert (response.status_code, response.json()["code"]) == (401, "invalid_token")

    async def test_scopes_may_be_narrowed_for_once(self, register: Register, client: AsyncClient) -> None:
        await register()
        first = (await log_in(client, "ada@example.org")).json()

        narrow = (await refresh(client, first["refresh_token"], scope="read")).json()
        wide = (await refresh(client, narrow["refresh_token"])).json()

        assert (narrow["scope"], wide["scope"]) == ("read", "read write")

    async def test_a_scope_that_the_login_lacks_is_refused_and_uses_nothing_up(
        self, register: Register, client: AsyncClient, app: FastAPI
    ) -> None:
        await register(scopes="read write admin")
        app.state.backstay.identity.sessions._grace = timedelta(0)
        first = (await log_in(client, "ada@example.org", scope="read")).json()

        assert _error(await refresh(client, first["refresh_token"], scope="read admin")) == (
            400,
            "invalid_scope",
        )
        assert (await refresh(client, first["refresh_token"])).status_code == 200

    async def test_a_scope_that_was_taken_away_is_gone_with_the_next_refresh(
        self, register: Register, client: AsyncClient, database: Database
    ) -> None:
        await register()
        first = (await log_in(client, "ada@example.org")).json()
        async with database.transaction() as session:
            await session.execute(update(Member).values(scopes="read admin"))

        assert (await refresh(client, first["refresh_token"])).json()["scope"] == "read"

    async def test_the_login_of_a_disabled_account_ends(
        self, register: Register, client: AsyncClient, database: Database
    ) -> None:
        await register()
        first = (await log_in(client, "ada@example.org")).json()
        async with database.transaction() as session:
            await session.execute(update(Member).values(is_active=False))

        assert _error(await refresh(client, first["refresh_token"])) == (400, "invalid_grant")
        assert (await client.get("/me", headers=bearer(first["access_token"]))).status_code == 401


@pytest.mark.databases("sqlite", "postgresql")
class TestRevocation:
    @pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
    async def test_either_token_ends_the_login_at_once(
        self, register: Register, client: AsyncClient, kind: str
    ) -> None:
        await register()
        tokens = (await log_in(client, "ada@example.org")).json()
        other = (await log_in(client, "ada@example.org")).json()
        assert (await client.get("/me", headers=bearer(tokens["access_token"]))).status_code == 200

        response = await client.post("/oauth/revoke", data={"token": tokens[kind], "token_type_hint": kind})

        assert response.status_code == 200
        assert (await client.get("/me", headers=bearer(tokens["access_token"]))).status_code == 401
        assert _error(await refresh(client, tokens["refresh_token"])) == (400, "invalid_grant")
        assert (await client.get("/me", headers=bearer(other["access_token"]))).status_code == 200

    async def test_a_token_that_is_none_is_no_error(self, client: AsyncClient) -> None:
        for token in ("x", "a.b.c", "é"):
            assert (await client.post("/oauth/revoke", data={"token": token})).status_code == 200

    async def test_nothing_is_an_invalid_request(self, client: AsyncClient) -> None:
        assert _error(await client.post("/oauth/revoke", data={})) == (400, "invalid_request")


class TestLimits:
    async def test_the_sixth_attempt_is_refused_whatever_the_password(
        self, register: Register, client: AsyncClient
    ) -> None:
        await register()
        tried = [(await log_in(client, "ada@example.org", "wrong")).status_code for _ in range(5)]

        sixth = await log_in(client, "ADA@example.org")
        unknown = [(await log_in(client, "eve@example.org", "wrong")).status_code for _ in range(6)]

        assert tried == [400] * 5
        assert sixth.status_code == 429
        assert 0 < int(sixth.headers["retry-after"]) <= 900
        assert unknown == [400] * 5 + [429]

    async def test_who_tries_from_elsewhere_does_not_lock_the_owner_out(
        self, register: Register, app: FastAPI, client: AsyncClient
    ) -> None:
        await register()
        async with calling(app, "192.0.2.9") as attacker:
            tried = [(await log_in(attacker, "ada@example.org", "wrong")).status_code for _ in range(8)]

        assert tried == [400] * 5 + [429] * 3
        assert (await log_in(client, "ada@example.org")).status_code == 200

    async def test_an_address_that_tries_many_accounts_is_stopped(
        self, app: FastAPI, client: AsyncClient
    ) -> None:
        statuses = [(await log_in(client, f"{number}@example.org")).status_code for number in range(51)]

        assert statuses == [400] * 50 + [429]


@pytest.mark.databases("sqlite")
class TestLimitsThatAreSet:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        fewer = {
            "logins_per_address": 5,
            "logins_per_minute": 8,
            "refreshes_per_address": 10,
            "refreshes_per_minute": 13,
        }
        security = settings.security.model_copy(update=fewer)
        return settings.model_copy(update={"security": security})

    async def test_logins_count_by_address_and_together(self, app: FastAPI, client: AsyncClient) -> None:
        statuses = [(await log_in(client, f"{number}@example.org")).status_code for number in range(6)]
        async with calling(app, "192.0.2.9") as other:
            from_elsewhere = [
                (await log_in(other, f"{number}@example.net")).status_code for number in range(4)
            ]

        assert statuses == [400] * 5 + [429]
        assert from_elsewhere == [400] * 3 + [429]

    async def test_refreshes_count_by_address_and_together(self, app: FastAPI, client: AsyncClient) -> None:
        statuses = [(await refresh(client, f"token-{number}")).status_code for number in range(11)]
        async with calling(app, "192.0.2.9") as other:
            from_elsewhere = [(await refresh(other, f"other-{number}")).status_code for number in range(4)]

        assert statuses == [400] * 10 + [429]
        assert from_elsewhere == [400] * 3 + [429]

    async def test_a_section_of_the_services_own_may_hold_what_has_no_hash(
        self, settings: Settings, members: Members
    ) -> None:
        class OwnSecurity(SecuritySettings):
            partners: list[str]

        own = OwnSecurity(**dict(settings.security), partners=["acme"])
        service = make_service(settings.model_copy(update={"security": own}), members)
        async with service.router.lifespan_context(service), calling(service, "192.0.2.9") as caller:
            assert (await log_in(caller, "eve@example.org")).status_code == 400


class TestDiscovery:
    async def test_clients_find_the_endpoints_and_the_keys(
        self, settings: Settings, client: AsyncClient
    ) -> None:
        metadata = await client.get("/.well-known/oauth-authorization-server")
        keys = await client.get("/.well-known/jwks.json")

        issuer = "http://127.0.0.1:8000"
        assert metadata.json() == {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/oauth/token",
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint": f"{issuer}/oauth/revoke",
            "revocation_endpoint_auth_methods_supported": ["none"],
            "jwks_uri": f"{issuer}/.well-known/jwks.json",
            "grant_types_supported": ["password", "refresh_token"],
            "response_types_supported": [],
        }
        assert [(key["kty"], key["alg"], "d" in key) for key in keys.json()["keys"]] == [
            ("OKP", "EdDSA", False)
        ]
        assert metadata.headers["cache-control"] == keys.headers["cache-control"] == "public, max-age=300"

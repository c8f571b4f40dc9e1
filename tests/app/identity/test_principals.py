"""Who calls, as RFC 6750 has it, and what knows it: limits, idempotency keys, logs, caches."""

import importlib.util
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from backstay import (
    OptionalPrincipalDep,
    PrincipalDep,
    SessionDep,
    create_app,
    idempotent,
    public,
    rate_limit,
    require_scopes,
    revoke_sessions,
)
from backstay.app.installation import add_request
from backstay.db import Database
from backstay.errors import ConfigurationError
from backstay.logging import captured_logs
from backstay.settings import Settings
from identity_service import Member, Members, bearer, log_in, make_service, refresh

Register = Callable[..., Awaitable[Member]]

router = APIRouter()


@router.get("/perhaps", dependencies=[public])
async def read_perhaps(principal: OptionalPrincipalDep) -> str | None:
    return None if principal is None else principal.subject


@router.post("/charges", dependencies=[idempotent()])
async def charge(principal: PrincipalDep, session: SessionDep) -> str:
    return principal.subject


@router.get("/counted", dependencies=[rate_limit("counted:{principal}", limit=2, per="1h")])
async def read_counted(principal: PrincipalDep) -> None: ...


@router.get("/kept")
async def read_kept(principal: PrincipalDep, response: Response) -> None:
    response.headers["Cache-Control"] = "private, max-age=60"


@router.get("/both", dependencies=[require_scopes("read"), require_scopes("write", "admin")])
async def read_both() -> None: ...


@router.websocket("/live")
async def live(socket: WebSocket, principal: PrincipalDep) -> None:
    await socket.accept()
    await socket.send_text(principal.subject)
    await socket.close()


@pytest.fixture
def app(settings: Settings, members: Members) -> FastAPI:
    app = make_service(settings, members)
    app.include_router(router)
    return app


@pytest.fixture
async def token(register: Register, client: AsyncClient) -> str:
    await register()
    answer = await log_in(client, "ada@example.org")
    access_token: str = answer.json()["access_token"]
    return access_token


class TestChallenges:
    async def test_no_credentials_are_no_error(self, client: AsyncClient) -> None:
        for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Digest x"}):
            response = await client.get("/me", headers=headers)

            assert response.status_code == 401
            assert response.headers["www-authenticate"] == 'Bearer realm="service"'
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["code"] == "unauthenticated"

    @pytest.mark.parametrize("header", ["Bearer x", "bearer x.y.z", "BEARER  x y", "Bearer é"])
    async def test_a_token_that_is_no_good_is_invalid(
        self, app: FastAPI, client: AsyncClient, header: str
    ) -> None:
        response = await client.get("/me", headers=[(b"Authorization", header.encode("latin-1"))])

        assert (response.status_code, response.json()["code"]) == (401, "invalid_token")
        assert response.headers["www-authenticate"] == 'Bearer realm="service", error="invalid_token"'

    async def test_credentials_of_another_form_are_an_invalid_request(self, client: AsyncClient) -> None:
        twice = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")]
        for headers in ([("Authorization", "Bearer")], [("Authorization", "Bearer ")], twice):
            response = await client.get("/me", headers=headers)

            assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
            assert response.headers["www-authenticate"] == 'Bearer realm="service", error="invalid_request"'

    async def test_a_missing_scope_is_named(self, client: AsyncClient, token: str) -> None:
        response = await client.get("/both", headers=bearer(token))

        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
        assert response.headers["www-authenticate"] == (
            'Bearer realm="service", error="insufficient_scope", scope="write admin"'
        )

    async def test_who_has_all_scopes_is_let_in(self, register: Register, client: AsyncClient) -> None:
        await register("eve@example.org", scopes="admin read write")
        tokens = (await log_in(client, "eve@example.org")).json()

        assert (await client.get("/admin", headers=bearer(tokens["access_token"]))).status_code == 200
        assert (await client.get("/both", headers=bearer(tokens["access_token"]))).status_code == 200

    async def test_a_realm_with_odd_characters_stays_one(self, settings: Settings, members: Members) -> None:
        odd = settings.model_copy(update={"name": 'a"b\\c'})
        with TestClient(make_service(odd, members)) as caller:
            assert caller.get("/me").headers["www-authenticate"] == 'Bearer realm="abc"'

    async def test_the_tokens_of_refreshes_are_no_access_tokens(
        self, register: Register, client: AsyncClient
    ) -> None:
        await register()
        tokens = (await log_in(client, "ada@example.org")).json()

        assert (await client.get("/me", headers=bearer(tokens["refresh_token"]))).status_code == 401
        assert (await refresh(client, tokens["access_token"])).status_code == 400


def _load_corpus() -> Any:
    path = Path(__file__).parents[2] / "security" / "test_hostile_tokens.py"
    spec = importlib.util.spec_from_file_location("hostile_tokens", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_more_than_sixty_bad_tokens_are_each_a_401(
    app: FastAPI, client: AsyncClient, database: Database
) -> None:
    """At the time at which the token that they are made of is good, and its login is there."""
    corpus = _load_corpus()

    class AtNoon:
        def verify(self, token: str) -> Any:
            return corpus.TOKENS.verify(token, now=corpus.NOW)

    app.state.backstay.identity._verified = AtNoon()
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO backstay_sessions (id, subject, client_id, scopes, created_at, expires_at) "
                "VALUES ('s1', '7', 'web', '[]', '2026-11-29', '2999-01-01')"
            )
        )
    # HTTP takes white space away; no header has characters beyond ASCII, breaks or NUL; and one that is
    # very long is refused before anybody reads a token in it.
    tokens = [
        token
        for _, token in corpus.HOSTILE.values()
        if token.strip() == token != "" and token.isascii() and token.isprintable() and len(token) < 30_000
    ]

    good = await client.get("/me", headers=bearer(corpus.GOOD))
    answers = [await client.get("/me", headers=bearer(token)) for token in tokens]

    assert good.status_code == 200
    assert len(tokens) >= 60
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(401, "invalid_token")}
    assert not [
        token
        for token, answer in zip(tokens, answers, strict=True)
        if len(token) > 9 and token in answer.text
    ]


class TestUse:
    async def test_a_public_route_may_know_its_callers(self, client: AsyncClient, token: str) -> None:
        me = (await client.get("/me", headers=bearer(token))).json()["subject"]

        assert (await client.get("/perhaps")).json() is None
        assert (await client.get("/perhaps", headers=bearer(token))).json() == me
        assert (await client.get("/perhaps", headers=bearer("x"))).status_code == 401
        assert (await client.get("/open", headers=bearer("x"))).status_code == 200

    async def test_what_a_known_caller_gets_is_not_kept(self, client: AsyncClient, token: str) -> None:
        assert (await client.get("/me", headers=bearer(token))).headers["cache-control"] == "no-store"
        kept = await client.get("/kept", headers=bearer(token))
        assert kept.headers["cache-control"] == "private, max-age=60"
        assert "cache-control" not in (await client.get("/open", headers=bearer(token))).headers

    async def test_each_caller_has_limits_of_its_own(
        self, register: Register, client: AsyncClient, token: str
    ) -> None:
        await register("eve@example.org")
        other = (await log_in(client, "eve@example.org")).json()["access_token"]

        own = [(await client.get("/counted", headers=bearer(token))).status_code for _ in range(3)]
        others = (await client.get("/counted", headers=bearer(other))).status_code

        assert (own, others) == ([200, 200, 429], 200)

    async def test_each_caller_has_idempotency_keys_of_its_own(
        self, register: Register, client: AsyncClient, token: str
    ) -> None:
        """Although the marker runs before the route asks who calls."""
        await register("eve@example.org")
        other = (await log_in(client, "eve@example.org")).json()["access_token"]
        key = {"Idempotency-Key": "8e03978e"}

        first = await client.post("/charges", headers=bearer(token) | key)
        again = await client.post("/charges", headers=bearer(token) | key)
        others = await client.post("/charges", headers=bearer(other) | key)
        nobodys = await client.post("/charges", headers=key)

        assert first.json() == again.json() != others.json()
        assert again.headers["idempotency-replayed"] == "true"
        assert (others.status_code, "idempotency-replayed" in others.headers) == (200, False)
        assert nobodys.status_code == 401

    async def test_log_lines_name_the_caller(
        self, app: FastAPI, client: AsyncClient, token: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        lines: list[Any] = []
        app.get("/noted")(_note(lines))

        me = (await client.get("/me", headers=bearer(token))).json()["subject"]
        await client.get("/noted", headers=bearer(token))

        assert lines[0]["principal"] == me
        assert "ada@example.org" not in str(lines)

    async def test_a_websocket_knows_its_caller(
        self, app: FastAPI, client: AsyncClient, token: str, ask_socket: Any
    ) -> None:
        me = (await client.get("/me", headers=bearer(token))).json()["subject"]

        assert await ask_socket(app, "/live", bearer(token)) == ["websocket.accept", me, "websocket.close"]
        assert await ask_socket(app, "/live", {}) == ["websocket.close"]
        assert await ask_socket(app, "/live", bearer("x")) == ["websocket.close"]

    async def test_denials_are_logged_without_what_was_sent(self, client: AsyncClient, token: str) -> None:
        with captured_logs() as logs:
            await client.get("/me", headers=bearer("a-token-that-is-none"))
            await client.get("/admin", headers=bearer(token))

        said = [
            (line["event"], line.get("reason"), line.get("needed"))
            for line in logs
            if line["logger"] == "backstay.auth"
        ]
        assert said == [("authentication failed", "malformed", None), ("authorization denied", None, "admin")]
        assert "a-token-that-is-none" not in str(logs)


def _note(lines: list[Any]) -> Callable[..., Awaitable[None]]:
    async def note(principal: PrincipalDep) -> None:
        lines.append(add_request(logging, "info", {"event": "noted"}))

    return note


class TestRevocation:
    async def test_the_service_ends_all_logins_of_somebody(
        self, register: Register, client: AsyncClient, database: Database
    ) -> None:
        ada = await register()
        tokens = [(await log_in(client, "ada@example.org")).json()["access_token"] for _ in range(2)]
        before = [(await client.get("/me", headers=bearer(token))).status_code for token in tokens]

        assert (await client.delete(f"/members/{ada.id}/logins")).status_code == 204

        after = [(await client.get("/me", headers=bearer(token))).status_code for token in tokens]
        assert (before, after) == ([200, 200], [401, 401])

    async def test_what_is_rolled_back_ends_nothing(
        self, app: FastAPI, register: Register, client: AsyncClient, token: str
    ) -> None:
        ada = (await client.get("/me", headers=bearer(token))).json()["subject"]
        database = app.state.backstay.database
        with pytest.raises(RuntimeError):
            async with database.transaction() as session:
                assert await revoke_sessions(session, ada) == 1
                raise RuntimeError

        assert (await client.get("/me", headers=bearer(token))).status_code == 200

    async def test_a_login_that_is_good_is_looked_up_once(
        self, client: AsyncClient, token: str, assert_queries: Any
    ) -> None:
        await client.get("/me", headers=bearer(token))

        with assert_queries(0):
            assert (await client.get("/me", headers=bearer(token))).status_code == 200


class TestStart:
    @pytest.mark.parametrize(
        ("options", "place"),
        [
            ({"dependencies": [require_scopes("admin")]}, "asks who calls"),
            ({"dependencies": [public, rate_limit("x:{principal}", limit=1, per="1s")]}, "asks who calls"),
        ],
    )
    async def test_who_asks_for_callers_needs_something_that_proves_them(
        self, settings: Settings, options: Any, place: str
    ) -> None:
        app = create_app(settings)
        app.get("/x", **options)(lambda: None)

        with pytest.raises(ConfigurationError, match=place):
            async with app.router.lifespan_context(app):
                pass

    async def test_public_and_scopes_are_a_contradiction(self, settings: Settings, members: Members) -> None:
        app = make_service(settings, members)
        app.get("/x", dependencies=[public, require_scopes("admin")])(lambda: None)

        with pytest.raises(
            ConfigurationError, match="for everybody, and for callers with the scope admin as well"
        ):
            async with app.router.lifespan_context(app):
                pass

    @pytest.mark.parametrize("scopes", [(), ("a b",), ("",), ('"',)])
    def test_what_is_no_scope_is_refused(self, scopes: tuple[str, ...]) -> None:
        with pytest.raises(ConfigurationError):
            require_scopes(*scopes)

    async def test_production_needs_messages_that_reach_somebody(self, settings: Settings) -> None:
        from backstay.app._identity import _require_delivery
        from backstay.app.accounts import Accounts

        class Mute(Members):
            deliver = Accounts.deliver

        production = settings.model_copy(update={"environment": "production"})
        with pytest.raises(ConfigurationError, match="Mute delivers no messages"):
            _require_delivery(Mute(), production)
        _require_delivery(Members(), production)

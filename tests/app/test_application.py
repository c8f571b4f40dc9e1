"""What `create_app` and `install` put around every request."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from httpx2 import Client
from pydantic import SecretStr
from sqlalchemy import MetaData, text
from starlette.responses import JSONResponse, StreamingResponse

from backstay import ReadSessionDep, SessionDep, create_app, current_runtime, get_logger, install, public
from backstay.db.migrations import MigrationsPendingError
from backstay.errors import ConflictError, UsageError
from backstay.events import Event, RequestFinished, subscribed
from backstay.logging import captured_logs
from backstay.settings import DatabaseSettings, HttpSettings, LoggingSettings, Settings

router = APIRouter(prefix="/things")


@router.get("/{thing_id}")
async def read(thing_id: int) -> dict[str, int]:
    get_logger("shop").info("reading", thing_id=thing_id)
    return {"id": thing_id}


@router.post("/")
async def create(thing: dict[str, str]) -> int:
    return len(thing)


@router.get("/broken/{part}")
async def fail(part: str) -> None:
    raise RuntimeError("secret internals")


@router.get("/taken/now")
async def conflict() -> None:
    raise ConflictError("Taken.")


@pytest.fixture
def metadata() -> MetaData:
    return MetaData()


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


class TestHeaders:
    async def test_every_answer_carries_an_id_and_the_security_headers(self, app: FastAPI, ask: Any) -> None:
        for path in ("/things/1", "/nowhere", "/things/x", "/things/broken/x", "/livez"):
            headers = (await ask(app, "GET", path)).headers
            assert len(headers["x-request-id"]) == 32
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert headers["referrer-policy"] == "no-referrer"
            assert "strict-transport-security" not in headers

    async def test_the_callers_id_is_kept_when_it_is_harmless(self, app: FastAPI, ask: Any) -> None:
        kept = await ask(app, "GET", "/nowhere", headers={"X-Request-ID": "order-7"})
        replaced = await ask(app, "GET", "/nowhere", headers={"X-Request-ID": "a b\x1b[31m"})

        assert kept.headers["x-request-id"] == kept.json["requestId"] == "order-7"
        assert len(replaced.headers["x-request-id"]) == 32

    async def test_production_asks_browsers_for_https(self, settings: Settings, ask: Any) -> None:
        app = create_app(settings.model_copy(update={"environment": "production"}))

        assert "max-age=63072000" in (await ask(app, "GET", "/livez")).headers["strict-transport-security"]

    async def test_documentation_is_off_in_production(self, settings: Settings, ask: Any) -> None:
        app = create_app(settings.model_copy(update={"environment": "production"}))

        assert (await ask(app, "GET", "/docs")).status == 404


class TestErrors:
    async def test_a_bug_is_a_problem_without_internals_and_a_logged_traceback(
        self, app: FastAPI, ask: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = await ask(app, "GET", "/things/broken/x")

        assert (answer.status, answer.json["code"]) == (500, "internal_error")
        assert b"secret internals" not in answer.body
        assert "secret internals" in caplog.text

    async def test_a_wrong_method_names_the_right_ones(self, app: FastAPI, ask: Any) -> None:
        answer = await ask(app, "DELETE", "/things/1")

        assert (answer.status, answer.json["status"], answer.headers["allow"]) == (405, 405, "GET")

    @pytest.mark.parametrize("declared", [True, False])
    async def test_a_body_over_the_limit_is_refused_declared_or_not(
        self, settings: Settings, ask: Any, declared: bool
    ) -> None:
        small = settings.model_copy(update={"http": HttpSettings(max_body_bytes=10)})
        app = create_app(small, routers=[router], dependencies=[public])
        headers = {"content-length": "40"} if declared else {}

        answer = await ask(app, "POST", "/things/", json={"name": "x" * 30}, headers=headers)

        assert (answer.status, answer.json["status"]) == (413, 413)

    async def test_an_app_with_an_older_contract_replaces_the_shape(
        self, settings: Settings, ask: Any
    ) -> None:
        app = create_app(
            settings,
            routers=[router],
            problem_shape=lambda problem, _: JSONResponse({"error": problem.code}, problem.status),
            dependencies=[public],
        )

        assert (await ask(app, "GET", "/things/taken/now")).json == {"error": "conflict"}
        assert (await ask(app, "GET", "/nowhere")).json == {"error": "not_found"}

    def test_an_unhandled_error_keeps_the_connection(self, app: FastAPI, live_server: Any) -> None:
        with Client(base_url=live_server.url) as client:
            first, port = _get(client, "/things/broken/x")
            second, same_port = _get(client, "/things/1")

        assert (first, second) == (500, 200)
        assert port == same_port

    async def test_a_response_that_breaks_off_is_logged_and_not_repaired(
        self, settings: Settings, ask: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = create_app(settings, dependencies=[public])

        @app.get("/stream")
        async def stream(session: SessionDep) -> StreamingResponse:
            async def body() -> AsyncIterator[str]:
                yield "begin"
                raise RuntimeError("middle")

            return StreamingResponse(body())

        async with app.router.lifespan_context(app):
            answer = await ask(app, "GET", "/stream")

        assert (answer.status, answer.body) == (200, b"begin")
        assert "broke off" in caplog.text


def _get(client: Client, path: str) -> tuple[int, int]:
    response = client.get(path)
    stream = response.extensions["network_stream"]
    return response.status_code, stream.get_extra_info("client_addr")[1]


class TestCrossOrigin:
    async def test_it_is_off_unless_set(self, app: FastAPI, ask: Any) -> None:
        answer = await ask(app, "GET", "/things/1", headers={"Origin": "https://shop.example"})
        assert "access-control-allow-origin" not in answer.headers

    @pytest.mark.parametrize("path", ["/things/1", "/nowhere", "/things/broken/x"])
    async def test_a_listed_origin_may_read_every_answer_errors_included(
        self, settings: Settings, ask: Any, path: str
    ) -> None:
        http = HttpSettings(cors_origins=("https://shop.example",))
        app = create_app(settings.model_copy(update={"http": http}), routers=[router], dependencies=[public])

        answer = await ask(app, "GET", path, headers={"Origin": "https://shop.example"})
        other = await ask(app, "GET", path, headers={"Origin": "https://evil.example"})

        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        exposed = "X-Request-ID, ETag, Idempotency-Replayed, RateLimit, RateLimit-Policy, Retry-After"
        assert answer.headers["access-control-expose-headers"] == exposed
        assert "access-control-allow-origin" not in other.headers


class TestLogs:
    async def test_each_request_writes_one_line_and_its_own_lines_name_it(
        self, app: FastAPI, ask: Any
    ) -> None:
        app.state.backstay.configure_logging()
        with captured_logs() as lines:
            answer = await ask(
                app, "GET", "/things/7?token=s3cret", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
            )

        assert [line["event"] for line in lines] == ["reading", "request"]
        for line in lines:
            assert line["request_id"] == answer.headers["x-request-id"]
            assert line["route"] == "/things/{thing_id}"
            assert line["trace_id"] == "a" * 32
        assert (lines[1]["status"], lines[1]["path"]) == (200, "/things/7")
        assert "s3cret" not in json.dumps(lines)

    async def test_the_access_line_can_be_switched_off(self, settings: Settings, ask: Any) -> None:
        app = create_app(settings.model_copy(update={"logging": LoggingSettings(access=False)}))
        with captured_logs() as lines:
            await ask(app, "GET", "/nowhere")
        assert lines == []

    async def test_the_end_of_a_request_is_told(self, app: FastAPI, ask: Any) -> None:
        heard: list[Event] = []
        with subscribed(heard.append):
            await ask(app, "GET", "/things/7")

        (finished,) = heard
        assert isinstance(finished, RequestFinished)
        assert (finished.method, finished.route, finished.status) == ("GET", "/things/{thing_id}", 200)


class TestLeaving:
    @pytest.mark.databases("sqlite", "postgresql")
    async def test_a_read_whose_caller_leaves_is_cancelled(self, settings: Settings) -> None:
        app = create_app(settings, dependencies=[public])
        inside, ended = asyncio.Event(), asyncio.Event()

        @app.get("/slow")
        async def slow(session: ReadSessionDep) -> None:
            await session.execute(text("SELECT 1"))
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        heard: list[Event] = []
        with subscribed(heard.append):
            async with app.router.lifespan_context(app):
                await _call_and_leave(app, "GET", "/slow", inside)
                assert ended.is_set()
                pool: Any = app.state.backstay.database.read_engine.pool
                assert pool.checkedout() == 0

        assert [event.status for event in heard if isinstance(event, RequestFinished)] == [499]

    async def test_a_write_whose_caller_leaves_runs_to_its_end(self, settings: Settings) -> None:
        app = create_app(settings, dependencies=[public])
        inside, ended = asyncio.Event(), asyncio.Event()

        @app.post("/slow")
        async def slow() -> None:
            inside.set()
            await anyio.sleep(0.3)
            ended.set()

        async with app.router.lifespan_context(app):
            await _call_and_leave(app, "POST", "/slow", inside)

        assert ended.is_set()


async def _call_and_leave(app: FastAPI, method: str, path: str, inside: asyncio.Event) -> None:
    unread = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if unread:
            return unread.pop()
        await inside.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [], "state": {}}
    await app(scope, receive, send)


class TestInstall:
    @pytest.fixture
    def existing(self) -> FastAPI:
        app = FastAPI()

        @app.get("/items/{item_id}")
        async def item(item_id: int) -> dict[str, int]:
            if item_id == 404:
                raise HTTPException(404, "gone")
            return {"item": item_id}

        return app

    async def test_no_answer_of_an_existing_app_changes(
        self, settings: Settings, existing: FastAPI, ask: Any
    ) -> None:
        paths = ("/items/1", "/items/404", "/items/x", "/nowhere", "/docs", "/openapi.json")
        before = [await ask(existing, "GET", path) for path in paths]
        existing.middleware_stack = None
        install(existing, settings)
        after = [await ask(existing, "GET", path) for path in paths]

        for old, new in zip(before, after, strict=True):
            assert (old.status, old.body) == (new.status, new.body)
            assert {name for name in new.headers if name not in old.headers} == {"x-request-id"}

    async def test_it_gets_sessions_and_health(
        self, settings: Settings, existing: FastAPI, ask: Any, running: Any
    ) -> None:
        install(existing, settings)

        @existing.get("/one")
        async def one(session: SessionDep) -> int:
            return await session.scalar(text("SELECT 1")) or 0

        async with running(existing):
            assert (await ask(existing, "GET", "/one")).json == 1
            ready = await ask(existing, "GET", "/readyz")
        assert ready.json == {"ready": True, "checks": [{"name": "database", "ok": True}]}


class TestRuntime:
    async def test_a_lifespan_of_the_service_runs_inside_the_runtime(
        self, settings: Settings, running: Any
    ) -> None:
        seen: list[object] = []

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, int]]:
            seen.append(current_runtime().database)
            yield {"answer": 42}

        app = create_app(settings, lifespan=lifespan, dependencies=[public])

        @app.get("/")
        async def state(request: Request) -> int:
            return int(request.state.answer)

        with TestClient(app) as client:
            assert client.get("/").json() == 42
            assert seen == [app.state.backstay.database]

    def test_without_a_runtime_the_message_says_how_to_get_one(self) -> None:
        with pytest.raises(UsageError, match=r"open_runtime\(Settings\(\)\)"):
            current_runtime()

    async def test_a_development_start_runs_the_migrations_and_production_names_the_command(
        self, tmp_path: Path, running: Any
    ) -> None:
        versions = tmp_path / "migrations" / "versions"
        versions.mkdir(parents=True)
        (versions / "20260101_0000_first_aaaaaaaaaaaa.py").write_text(_MIGRATION)
        database = DatabaseSettings(
            url=SecretStr(f"sqlite:///{tmp_path}/service.db"), migrations=tmp_path / "migrations"
        )
        development = Settings(database=database)

        with pytest.raises(MigrationsPendingError) as caught:
            async with running(create_app(development.model_copy(update={"environment": "production"}))):
                pass
        assert "backstay db upgrade" in str(caught.value.hint)

        async with running(create_app(development)), current_runtime().database.reading() as session:
            assert await session.scalar(text("SELECT count(*) FROM first")) == 0


_MIGRATION = '''"""First"""

import sqlalchemy as sa
from alembic import op

revision = "aaaaaaaaaaaa"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("first", sa.Column("id", sa.Integer, primary_key=True))


def downgrade() -> None:
    op.drop_table("first")
'''

"""Spans arrive at a collector, under the request that they belong to, and log lines name them."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, insert, select, text

from backstay import ReadSessionDep, SessionDep, create_app, current_runtime, get_logger, public
from backstay.errors import ConfigurationError
from backstay.logging import captured_logs
from backstay.settings import ServerSettings, Settings, TelemetrySettings
from backstay.telemetry.traces import open_traces

pytestmark = pytest.mark.databases("sqlite", "postgresql")

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}

tables = MetaData()
things = Table(
    "traced_things",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", String(100)),
    Column("parent_id", ForeignKey("traced_things.id", deferrable=True, initially="DEFERRED")),
)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


router = APIRouter()
log = get_logger("shop")


@router.get("/things/{thing_id}")
async def read_thing(thing_id: int, session: ReadSessionDep) -> str | None:
    log.info("reading")
    return await session.scalar(select(things.c.name).where(things.c.id == thing_id))


@router.post("/things", status_code=201)
async def write_thing(name: str, session: SessionDep) -> None:
    await session.execute(insert(things).values(id=1, name=name))


@router.post("/orphans", status_code=201)
async def write_orphan(session: SessionDep) -> None:
    await session.execute(insert(things).values(id=2, parent_id=4711))


@router.get("/refusals")
async def refuse() -> None:
    raise HTTPException(409)


@router.get("/failures")
async def fail() -> None:
    raise RuntimeError("the canary sang")


@router.get("/mistakes")
async def mistake(session: ReadSessionDep) -> None:
    await session.execute(text("SELECT 'canary' FROM nowhere"))


@router.get("/waits")
async def wait() -> None:
    waiting.set()
    await asyncio.sleep(30)


waiting = threading.Event()


@router.post("/letters")
async def write_letter(tasks: BackgroundTasks) -> None:
    tasks.add_task(_send_letter)


async def _send_letter() -> None:
    async with current_runtime().database.reading() as session:
        await session.execute(select(things.c.id))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"telemetry": TelemetrySettings(traces=True), "name": "traced"})


@pytest.fixture
def app(settings: Settings, receiver: Any) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


@pytest.fixture
def served(app: FastAPI, receiver: Any) -> Callable[[], Any]:
    """A client of the running app; the spans have arrived when the app has stopped."""
    return lambda: _serving(app)


@asynccontextmanager
async def _serving(app: FastAPI) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://traced.example") as client,
    ):
        yield client


class TestSpans:
    async def test_a_read_is_a_request_with_its_statement_under_it(self, served: Any, receiver: Any) -> None:
        async with served() as client:
            await client.get("/things/7", headers=SAMPLED)

        (request,) = receiver.named("GET /things/{thing_id}")
        (statement,) = receiver.named("SELECT")
        assert request.trace_id.hex() == statement.trace_id.hex() == TRACE
        assert request.parent_span_id.hex() == PARENT
        assert statement.parent_span_id == request.span_id
        assert (
            request.start_time_unix_nano
            <= statement.start_time_unix_nano
            < statement.end_time_unix_nano
            <= request.end_time_unix_nano
        )

    async def test_a_statement_says_what_it_is(
        self, served: Any, receiver: Any, database_kind: str, attributes_of: Any
    ) -> None:
        async with served() as client:
            await client.get("/things/7", headers=SAMPLED)

        said = attributes_of(receiver.named("SELECT")[0])
        assert said["db.system.name"] == database_kind
        assert said["db.operation.name"] == "SELECT"
        assert said["db.query.text"].startswith(
            "SELECT traced_things.name FROM traced_things WHERE traced_things.id ="
        )

    async def test_a_write_has_its_commit_under_it(self, served: Any, receiver: Any) -> None:
        async with served() as client:
            assert (await client.post("/things?name=oar", headers=SAMPLED)).status_code == 201

        (request,) = receiver.named("POST /things")
        (statement,) = receiver.named("INSERT")
        (commit,) = receiver.named("COMMIT")
        assert {statement.parent_span_id, commit.parent_span_id} == {request.span_id}
        assert statement.end_time_unix_nano <= commit.end_time_unix_nano <= request.end_time_unix_nano

    async def test_a_commit_that_fails_is_an_error_in_its_span(
        self, served: Any, receiver: Any, attributes_of: Any
    ) -> None:
        async with served() as client:
            assert (await client.post("/orphans", headers=SAMPLED)).status_code == 409

        (commit,) = receiver.named("COMMIT")
        assert commit.status.code == commit.status.STATUS_CODE_ERROR
        assert attributes_of(commit)["error.type"] == "rolled_back"

    async def test_a_statement_that_fails_is_an_error_in_its_span(
        self, served: Any, receiver: Any, attributes_of: Any
    ) -> None:
        async with served() as client:
            assert (await client.get("/mistakes", headers=SAMPLED)).status_code == 500

        (statement,) = receiver.named("SELECT")
        assert statement.status.code == statement.status.STATUS_CODE_ERROR
        assert attributes_of(statement)["db.query.text"] == "SELECT ? FROM nowhere"
        assert "Error" in attributes_of(statement)["error.type"]

    async def test_a_background_task_belongs_to_its_request(self, served: Any, receiver: Any) -> None:
        async with served() as client:
            await client.post("/letters", headers=SAMPLED)

        (request,) = receiver.named("POST /letters")
        (statement,) = receiver.named("SELECT")
        assert statement.parent_span_id == request.span_id

    async def test_dependencies_and_serialisation_make_no_spans(self, served: Any, receiver: Any) -> None:
        """FastAPI's default; it triples what a trace costs."""
        async with served() as client:
            await client.get("/things/7", headers=SAMPLED)

        assert sorted(span.name for span in receiver.spans) == ["GET /things/{thing_id}", "SELECT"]

    async def test_a_trace_that_its_caller_does_not_sample_is_not_sent(
        self, served: Any, receiver: Any
    ) -> None:
        async with served() as client:
            await client.get("/things/7", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})

        assert receiver.spans == []

    @pytest.mark.parametrize(
        "malformed",
        ["", "00-zz", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01"],
    )
    async def test_a_malformed_parent_begins_a_trace_of_its_own(
        self, served: Any, receiver: Any, malformed: str
    ) -> None:
        async with served() as client:
            await client.get("/refusals", headers={"traceparent": malformed})

        (request,) = receiver.spans
        assert request.parent_span_id == b""
        assert request.trace_id.hex() not in {TRACE, "0" * 32}

    async def test_the_state_of_the_trace_is_carried_on(self, served: Any, receiver: Any) -> None:
        async with served() as client:
            await client.get("/things/7", headers={**SAMPLED, "tracestate": "vendor=harbour"})

        assert {span.trace_state for span in receiver.spans} == {"vendor=harbour"}

    async def test_nothing_secret_leaves(self, served: Any, receiver: Any) -> None:
        canary = "s3cr3t-c4n4ry"
        async with served() as client:
            await client.post(f"/things?name={canary}&token={canary}", headers=SAMPLED)
            await client.get(
                f"/things/7?api_key={canary}",
                headers={**SAMPLED, "Authorization": f"Bearer {canary}", "Cookie": f"session={canary}"},
            )
            await client.get(f"/things/none?password={canary}", headers=SAMPLED)
            await client.get("/failures", headers=SAMPLED)
            await client.get("/mistakes", headers=SAMPLED)

        assert len(receiver.spans) >= 8
        assert b"the canary sang" not in receiver.raw
        assert b"'canary'" not in receiver.raw
        # The one that is called `name`: it shows that the others would be seen.
        assert receiver.raw.count(canary.encode()) == 1


class TestLogLines:
    @pytest.mark.parametrize(
        ("method", "path", "status", "events"),
        [
            ("GET", "/things/7", 200, ["reading", "request"]),
            ("GET", "/things/none", 422, ["request"]),
            ("GET", "/refusals", 409, ["request"]),
            ("GET", "/failures", 500, ["A request failed.", "request"]),
            ("POST", "/orphans", 409, ["IntegrityError was answered with 409.", "request"]),
            ("GET", "/nowhere", 404, ["request"]),
        ],
    )
    async def test_each_line_of_a_request_names_its_span(
        self, served: Any, receiver: Any, app: FastAPI, method: str, path: str, status: int, events: list[str]
    ) -> None:
        app.state.backstay.configure_logging()
        async with served() as client:
            with captured_logs() as lines:
                answer = await client.request(method, path, headers=SAMPLED)

        assert answer.status_code == status
        assert [line["event"] for line in lines if line["logger"] != "httpx2"] == events
        (request,) = [span for span in receiver.spans if span.parent_span_id.hex() == PARENT]
        for line in lines:
            if line["logger"] != "httpx2":
                assert (line["trace_id"], line["span_id"]) == (TRACE, request.span_id.hex())

    async def test_the_line_of_a_caller_that_left_names_it_too(
        self, app: FastAPI, live_server: Any, receiver: Any
    ) -> None:
        app.state.backstay.configure_logging()
        waiting.clear()
        with captured_logs() as lines:
            async with AsyncClient(base_url=live_server.url) as client:
                asking = asyncio.create_task(client.get("/waits", headers=SAMPLED))
                assert await asyncio.to_thread(waiting.wait, 10)
                asking.cancel()
            with anyio.fail_after(10):
                while not [line for line in lines if line["event"] == "request"]:  # noqa: ASYNC110  a thread's
                    await asyncio.sleep(0.01)

        (access,) = [line for line in lines if line["event"] == "request"]
        assert (access["status"], access["trace_id"]) == (499, TRACE)
        assert access["span_id"] not in {PARENT, "0" * 16}

    async def test_without_traces_a_line_still_names_the_callers(
        self, settings: Settings, receiver: Any
    ) -> None:
        app = create_app(
            settings.model_copy(update={"telemetry": TelemetrySettings()}),
            routers=[router],
            dependencies=[public],
        )
        app.state.backstay.configure_logging()
        async with _serving(app) as client:
            with captured_logs() as lines:
                await client.get("/refusals", headers=SAMPLED)

        (access,) = [line for line in lines if line["event"] == "request"]
        assert access["trace_id"] == TRACE
        assert "span_id" not in access
        assert receiver.spans == []


@pytest.mark.databases("sqlite")
class TestSetup:
    @pytest.mark.parametrize(
        ("variable", "value", "message"),
        [
            ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER is 'zipkin'; spans go out by otlp,"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; spans are sent"),
        ],
    )
    def test_what_we_cannot_do_stops_the_start(
        self, monkeypatch: pytest.MonkeyPatch, receiver: Any, variable: str, value: str, message: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        with pytest.raises(ConfigurationError) as caught:
            open_traces("shop")
        assert str(caught.value).startswith(message)

    async def test_spans_may_stay_at_home(
        self, served: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
        async with served() as client:
            await client.get("/refusals", headers=SAMPLED)
        assert receiver.requests == []

    async def test_a_stop_waits_no_longer_for_a_collector_that_is_gone_than_it_may(
        self, receiver: Any, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The exporter itself would try for over ten seconds."""
        caplog.set_level(logging.CRITICAL, "opentelemetry")
        server = ServerSettings(grace=timedelta(seconds=1))
        app = create_app(
            settings.model_copy(update={"server": server}), routers=[router], dependencies=[public]
        )
        async with _serving(app) as client:
            receiver.close()
            await client.get("/refusals", headers=SAMPLED)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 3


@pytest.mark.databases("sqlite")
class TestProcess:
    """The global provider is set once in a process, so each of these has one of its own."""

    def test_a_provider_of_the_users_own_is_used_and_left_alone(self, receiver: Any) -> None:
        assert _run(_WITH_A_PROVIDER).splitlines()[-1] == "GET /things SELECT open"
        assert receiver.requests == []

    def test_spans_carry_the_services_name_and_what_the_variables_add(self, receiver: Any) -> None:
        _run(_WITHOUT_A_PROVIDER, OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=harbour")
        assert receiver.services == {"harbour-shop"}
        assert b"deployment.environment.name" in receiver.raw

    def test_the_variables_may_give_another_name_and_sample(self, receiver: Any) -> None:
        _run(_WITHOUT_A_PROVIDER, OTEL_SERVICE_NAME="quay")
        assert receiver.services == {"quay"}
        receiver.requests.clear()
        _run(_WITHOUT_A_PROVIDER, OTEL_TRACES_SAMPLER="always_off")
        assert receiver.requests == []

    def test_without_the_extra_the_start_says_what_to_install(self, receiver: Any) -> None:
        assert _run(_WITHOUT_THE_EXTRA) == (
            "Traces need opentelemetry.sdk, which is not installed. pip install 'backstay[telemetry]'"
        )


def _run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_WITHOUT_THE_EXTRA = """
import importlib.abc, sys
from backstay.errors import ConfigurationError
from backstay.telemetry.traces import open_traces

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
try:
    open_traces("shop")
except ConfigurationError as error:
    print(error, error.hint)
"""

_WITHOUT_A_PROVIDER = """
import asyncio
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text
from backstay import ReadSessionDep, Settings, create_app, public
from backstay.settings import DatabaseSettings, TelemetrySettings

app = create_app(Settings(
    name="harbour-shop",
    environment="test",
    database=DatabaseSettings(url=SecretStr("sqlite://")),
    telemetry=TelemetrySettings(traces=True),
), dependencies=[public])

@app.get("/things")
async def things(session: ReadSessionDep) -> int | None:
    return await session.scalar(text("SELECT 1"))

with TestClient(app) as client:
    assert client.get("/things").status_code == 200
"""

_WITH_A_PROVIDER = (
    """
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

ended, is_shut = [], []

class Own(SpanProcessor):
    def on_end(self, span):
        ended.append(span.name)

    def shutdown(self):
        is_shut.append(True)

provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(Own())
trace.set_tracer_provider(provider)
"""
    + _WITHOUT_A_PROVIDER
    + """
assert trace.get_tracer_provider() is provider
print(*sorted(ended), "shut" if is_shut else "open")
"""
)

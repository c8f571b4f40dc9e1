"""`/metrics`: for whom, with what, and what it costs nobody who does not want it."""

import subprocess
import sys
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from prometheus_client import REGISTRY, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, insert, select
from starlette.responses import PlainTextResponse, StreamingResponse

from backstay import ReadSessionDep, SessionDep, create_app, install, public
from backstay.db import Database
from backstay.events import QueryExecuted, subscribed
from backstay.logging import captured_logs
from backstay.settings import DatabaseSettings, HttpSettings, Settings, TelemetrySettings

TOKEN = "a-token-that-is-long-enough"

tables = MetaData()
rows = Table(
    "counted_rows",
    tables,
    Column("id", Integer, primary_key=True),
    Column("parent_id", ForeignKey("counted_rows.id", deferrable=True, initially="DEFERRED")),
)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


router = APIRouter()


@router.get("/rows/{row_id}")
async def read_row(row_id: int, session: ReadSessionDep) -> int | None:
    return await session.scalar(select(rows.c.id).where(rows.c.id == row_id))


@router.post("/rows", status_code=201)
async def write_row(session: SessionDep, parent: int | None = None) -> None:
    await session.execute(insert(rows).values(parent_id=parent))


@router.post("/failures")
async def fail(session: SessionDep) -> None:
    await session.execute(insert(rows).values(id=99))
    raise RuntimeError("boom")


@router.get("/streams")
async def stream() -> StreamingResponse:
    return StreamingResponse(iter([b"a", b"b"]))


@pytest.fixture
def telemetry() -> TelemetrySettings:
    return TelemetrySettings()


@pytest.fixture
def settings(settings: Settings, telemetry: TelemetrySettings) -> Settings:
    return settings.model_copy(update={"telemetry": telemetry})


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


async def scrape(client: AsyncClient) -> dict[str, float]:
    """Every sample by its name and labels, as they are written."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {
        f"{sample.name}{{{','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}}}": (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def requests_in(samples: dict[str, float]) -> dict[str, float]:
    prefix = "backstay_http_request_duration_seconds_count{method="
    return {
        name.removeprefix(prefix).removesuffix("}"): value
        for name, value in samples.items()
        if name.startswith(prefix) and "/metrics" not in name
    }


@pytest.mark.databases("sqlite", "postgresql")
class TestCounts:
    async def test_requests_are_counted_by_method_template_and_status(self, client: AsyncClient) -> None:
        for path in ("/rows/1", "/rows/2", "/rows/none", "/nowhere/1", "/nowhere/2", "/streams"):
            await client.get(path)
        await client.post("/rows")
        await client.request("BREW", "/rows")

        assert requests_in(await scrape(client)) == {
            "GET,route=/rows/{row_id},status=200": 2,
            "GET,route=/rows/{row_id},status=422": 1,
            "GET,route=unmatched,status=404": 2,
            "GET,route=/streams,status=200": 1,
            "POST,route=/rows,status=201": 1,
            "OTHER,route=/rows,status=405": 1,
        }

    async def test_the_ends_of_transactions_are_counted(self, client: AsyncClient) -> None:
        before = await scrape(client)
        assert (await client.post("/rows")).status_code == 201
        assert (await client.post("/rows?parent=4711")).status_code == 409
        assert (await client.post("/failures")).status_code == 500
        after = await scrape(client)

        counted = {
            outcome: after[name] - before[name]
            for outcome in ("committed", "rolled_back", "unknown")
            for name in [f"backstay_db_transactions_total{{outcome={outcome}}}"]
        }
        assert counted == {"committed": 1, "rolled_back": 2, "unknown": 0}

    async def test_statements_are_counted_and_timed(self, client: AsyncClient) -> None:
        heard: list[Any] = []
        with subscribed(heard.append, QueryExecuted):
            before = await scrape(client)
            heard_before = len(heard)
            await client.get("/rows/1")
            heard_between = len(heard) - heard_before
            after = await scrape(client)

        # The plugin prepares other tests' databases in a thread: its statements are this process's too.
        assert sum("counted_rows" in query.statement for query in heard) == 1
        for name in ("backstay_db_queries_total{}", "backstay_db_query_duration_seconds_count{}"):
            assert heard_between <= after[name] - before[name] <= len(heard)
        assert after["backstay_db_query_duration_seconds_sum{}"] > 0

    async def test_the_pools_are_shown(
        self, client: AsyncClient, database: Database, settings: Settings
    ) -> None:
        limit = settings.database.pool_size + settings.database.pool_overflow
        async with database.transaction() as session:
            await session.connection()
            shown = await scrape(client)

        assert shown["backstay_db_pool_connections{pool=writing,state=checked_out}"] == 1
        assert shown["backstay_db_pool_connections{pool=writing,state=idle}"] == 0
        assert shown["backstay_db_pool_connections{pool=reading,state=checked_out}"] == 0
        assert shown["backstay_db_pool_size{pool=writing}"] == limit
        assert (await scrape(client))["backstay_db_pool_connections{pool=writing,state=idle}"] == 1

    async def test_routes_that_fastapi_did_not_make_are_counted_by_their_template_too(
        self, app: FastAPI, client: AsyncClient
    ) -> None:
        app.mount("/files", PlainTextResponse("a file"))
        for path in ("/livez", "/files/1", "/files/2"):
            assert (await client.get(path)).status_code == 200

        assert requests_in(await scrape(client)) == {
            "GET,route=/livez,status=200": 1,
            "GET,route=/files/{path},status=200": 2,
        }

    async def test_an_idle_service_has_nothing_in_flight(self, client: AsyncClient) -> None:
        assert (await scrape(client))["backstay_http_requests_in_flight{}"] == 0


class TestAudience:
    async def test_everyone_may_read_them_outside_production(self, client: AsyncClient) -> None:
        answer = await client.get("/metrics")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert answer.headers["content-type"].startswith("text/plain; version=")

    async def test_a_scraper_may_ask_for_openmetrics(self, client: AsyncClient) -> None:
        answer = await client.get(
            "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        families = list(parse_openmetrics(answer.text))  # type: ignore[no-untyped-call]  # it has no types
        assert {family.name for family in families} >= {"backstay_db_queries"}

    async def test_they_are_no_part_of_the_contract_and_quiet_in_the_log(
        self, app: FastAPI, client: AsyncClient
    ) -> None:
        app.state.backstay.configure_logging()
        with captured_logs() as lines:
            await client.get("/metrics")

        assert [line for line in lines if line["logger"] == "backstay.access"] == []
        assert "/metrics" not in app.openapi()["paths"]

    @pytest.mark.parametrize("telemetry", [TelemetrySettings(metrics_token=SecretStr(TOKEN))])
    @pytest.mark.parametrize(
        "given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer h\xe9"]
    )
    async def test_without_the_token_they_are_a_problem(self, client: AsyncClient, given: str | None) -> None:
        headers = [] if given is None else [(b"Authorization", given.encode("latin-1"))]
        answer = await client.get("/metrics", headers=headers)

        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert "backstay_" not in answer.text

    @pytest.mark.parametrize("telemetry", [TelemetrySettings(metrics_token=SecretStr(TOKEN))])
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
    async def test_with_the_token_they_are_there(self, client: AsyncClient, scheme: str) -> None:
        answer = await client.get("/metrics", headers={"Authorization": f"{scheme} {TOKEN}"})
        assert answer.status_code == 200

    @pytest.mark.parametrize("telemetry", [TelemetrySettings(metrics=False)])
    async def test_off_they_are_not_there(self, client: AsyncClient) -> None:
        off, nowhere = await client.get("/metrics"), await client.get("/nowhere")
        assert off.status_code == nowhere.status_code == 404
        assert off.json()["code"] == nowhere.json()["code"]

    async def test_production_has_to_choose_them(self, database_url: str, ask: Any, running: Any) -> None:
        production = Settings(
            environment="production",
            database=DatabaseSettings(url=SecretStr(database_url)),
            http=HttpSettings(),
        )
        chosen = production.model_copy(update={"telemetry": TelemetrySettings(metrics=True)})
        answers = []
        for settings in (production, chosen):
            async with running(create_app(settings)) as app:
                answers.append((await ask(app, "GET", "/metrics")).status)
        assert answers == [404, 200]

    async def test_an_installed_app_has_them(self, settings: Settings, ask: Any, running: Any) -> None:
        app = FastAPI()
        install(app, settings)
        async with running(app):
            assert b"backstay_build_info" in (await ask(app, "GET", "/metrics")).body


class TestNeighbours:
    async def test_what_the_service_registers_itself_is_among_them(self, client: AsyncClient) -> None:
        counter = Counter("shop_orders", "Orders.", registry=REGISTRY)
        counter.inc(3)
        try:
            assert (await scrape(client))["shop_orders_total{}"] == 3
        finally:
            REGISTRY.unregister(counter)

    async def test_two_apps_in_a_process_do_not_count_each_others_requests(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        async with (
            running(create_app(settings, routers=[router], dependencies=[public])) as first,
            running(create_app(settings, routers=[router], dependencies=[public])) as second,
        ):
            await ask(first, "GET", "/streams")
            answer = await ask(second, "GET", "/metrics")

        assert b'route="/streams"' not in answer.body

    def test_off_nothing_is_imported(self) -> None:
        """In a process of its own: this one has everything."""
        done = subprocess.run(
            [sys.executable, "-c", _WITHOUT_TELEMETRY], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


_WITHOUT_TELEMETRY = """
import asyncio, sys
from pydantic import SecretStr
from backstay import Settings, create_app
from backstay.settings import DatabaseSettings, TelemetrySettings

app = create_app(Settings(
    environment="test",
    database=DatabaseSettings(url=SecretStr("sqlite://")),
    telemetry=TelemetrySettings(metrics=False, traces=False),
))

async def live():
    async with app.router.lifespan_context(app):
        pass

asyncio.run(live())
print([name for name in sys.modules if name.startswith(("prometheus_client", "opentelemetry.sdk",
    "opentelemetry.exporter", "opentelemetry.proto", "google.protobuf"))])
"""

"""A slow statement is one warning that says what, how long, and where it was sent."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import MetaData, text

from backstay import ReadSessionDep, create_app, public
from backstay.db import Database
from backstay.events import QueryExecuted, subscribed
from backstay.logging import captured_logs
from backstay.settings import Settings, TelemetrySettings
from backstay.telemetry.slow_queries import SlowQueries

router = APIRouter()

# Counts for some milliseconds on both databases.
_SLOW = (
    "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000) "
    "SELECT count(*) FROM numbers WHERE 'canary' <> :name"
)


@router.get("/counts/{name}")
async def count(name: str, session: ReadSessionDep) -> int | None:
    return await look_slowly(session, name)


async def look_slowly(session: ReadSessionDep, name: str) -> int | None:
    number: int | None = await session.scalar(text(_SLOW), {"name": name})
    return number


@router.get("/locks")
async def fail_slowly(session: ReadSessionDep) -> None:
    await session.scalar(text(_SLOW.replace("count(*)", "sum(1 / (n - 20000))")), {"name": ""})


@pytest.fixture
def metadata() -> MetaData:
    return _NO_TABLES


_NO_TABLES = MetaData()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    telemetry = TelemetrySettings(slow_query=timedelta(milliseconds=1))
    return settings.model_copy(update={"telemetry": telemetry})


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    app = create_app(settings, routers=[router], dependencies=[public])
    app.state.backstay.configure_logging()
    return app


def warnings_in(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["logger"] == "backstay.telemetry"]


@pytest.mark.databases("sqlite", "postgresql")
class TestRequests:
    async def test_the_line_says_what_took_how_long_and_where_it_was_sent(self, client: AsyncClient) -> None:
        with captured_logs() as lines:
            answer = await client.get("/counts/secret-name")

        (line,) = warnings_in(lines)
        assert line["level"] == "warning"
        assert line["milliseconds"] >= 1
        assert line["event"] == f"A statement took {line['milliseconds']} ms."
        assert "SELECT count(*) FROM numbers WHERE ? <>" in line["statement"]
        assert line["place"].endswith("in look_slowly")
        assert "test_slow_queries.py" in line["place"]
        assert line["request_id"] == answer.headers["x-request-id"]
        assert line["route"] == "/counts/{name}"

    async def test_no_value_is_in_it(self, client: AsyncClient) -> None:
        with captured_logs() as lines:
            await client.get("/counts/secret-name")

        (line,) = warnings_in(lines)
        assert "canary" not in str(line)
        assert "secret-name" not in str(line)


@pytest.mark.databases("postgresql")
async def test_a_slow_statement_that_fails_is_told_too(client: AsyncClient) -> None:
    with captured_logs() as lines:
        assert (await client.get("/locks")).status_code == 422

    (line,) = warnings_in(lines)
    assert line["event"].startswith("A statement failed after ")
    assert line["error"] == "DivisionByZeroError"
    assert line["place"].endswith("in fail_slowly")


async def test_a_statement_outside_of_requests_is_told_with_its_place(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def ask_blocking() -> None:
        with database.sync_reading() as session:
            session.execute(text(_SLOW), {"name": ""})

    slow = SlowQueries(timedelta(milliseconds=1), find_task=lambda: None)
    with caplog.at_level(logging.WARNING), subscribed(slow.hear, *slow.kinds):
        ask_blocking()

    assert [getattr(record, "place", "").partition(", in ")[2] for record in caplog.records] == [
        "ask_blocking"
    ]


def test_a_fast_statement_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowQueries(timedelta(milliseconds=500), find_task=lambda: None)
    slow.hear(QueryExecuted(statement="SELECT 1", seconds=0.5))
    assert caplog.records == []

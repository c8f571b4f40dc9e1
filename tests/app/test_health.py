"""`/livez` asks nothing, `/readyz` asks the checks; neither tells how anything failed."""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import ASGITransport, AsyncClient

from backstay.app.health import HealthCheck, add_health
from backstay.app.problems import add_problem_handlers


async def work() -> None:
    pass


async def fail() -> None:
    raise ConnectionError("postgresql://shop:hunter2@db.internal is down")


def make_app(
    *checks: HealthCheck, is_draining: Callable[[], bool] = lambda: False, max_age: timedelta = timedelta(0)
) -> FastAPI:
    app = FastAPI()
    add_problem_handlers(app)
    add_health(app, lambda: checks, is_draining=is_draining, max_age=max_age)
    return app


def test_a_live_process_says_so() -> None:
    response = TestClient(make_app(HealthCheck("database", fail))).get("/livez")

    assert (response.status_code, response.json()) == (200, {"alive": True})
    assert response.headers["cache-control"] == "no-store"


def test_a_process_whose_checks_work_is_ready() -> None:
    response = TestClient(make_app(HealthCheck("database", work), HealthCheck("cache", work))).get("/readyz")

    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "ready": True,
        "checks": [{"name": "database", "ok": True}, {"name": "cache", "ok": True}],
    }


def test_a_process_without_checks_is_ready() -> None:
    assert TestClient(make_app()).get("/readyz").json() == {"ready": True, "checks": []}


def test_a_failed_check_is_named_without_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    client = TestClient(make_app(HealthCheck("database", fail), HealthCheck("cache", work)))

    with caplog.at_level(logging.WARNING, "backstay.app"):
        response = client.get("/readyz")

    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "A check failed.",
        "code": "not_ready",
        "ready": False,
        "checks": [{"name": "database", "ok": False}, {"name": "cache", "ok": True}],
    }
    assert "The health check 'database' failed." in caplog.text
    assert "ConnectionError" in caplog.text


def test_a_check_that_hangs_is_given_up() -> None:
    check = HealthCheck("database", anyio.sleep_forever, timeout=timedelta(milliseconds=10))

    assert TestClient(make_app(check)).get("/readyz").json()["checks"] == [{"name": "database", "ok": False}]


def test_a_stopping_process_is_alive_and_not_ready() -> None:
    client = TestClient(make_app(HealthCheck("database", work), is_draining=lambda: True))

    assert client.get("/livez").status_code == 200
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["detail"] == "The service is stopping."


def test_health_is_not_in_the_openapi_document() -> None:
    assert make_app().openapi()["paths"] == {}


async def test_checks_run_at_the_same_time() -> None:
    met = anyio.Event()

    async def wait() -> None:
        await met.wait()

    async def meet() -> None:
        met.set()

    app = make_app(HealthCheck("waits", wait), HealthCheck("meets", meet))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/readyz")).status_code == 200


async def test_askers_share_one_round_of_checks() -> None:
    asked, may_go_on = 0, anyio.Event()

    async def count() -> None:
        nonlocal asked
        asked += 1
        await may_go_on.wait()

    app = make_app(HealthCheck("counts", count), max_age=timedelta(hours=1))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(client.get, "/readyz")
            await anyio.wait_all_tasks_blocked()
            may_go_on.set()
        await client.get("/readyz")

    assert asked == 1


async def test_checks_are_asked_again_after_a_while() -> None:
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1

    def checks() -> Sequence[HealthCheck]:
        return [HealthCheck("counts", count)]

    app = FastAPI()
    add_health(app, checks, max_age=timedelta(0))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        await client.get("/readyz")
        await client.get("/readyz")

    assert asked == 2

"""docs/decisions/0016-deadlines.md: one deadline for each request, and what does not have it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from math import inf
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, WebSocket
from fastapi.params import Depends
from fastapi.testclient import TestClient
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, text
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from backstay import SessionDep, after_commit, create_app, current_runtime, install, open_runtime, public
from backstay.app.time_limits import TimeLimits, time_limit
from backstay.db import Database
from backstay.deadline import seconds_left
from backstay.errors import ConfigurationError
from backstay.settings import Settings

SHORT = timedelta(milliseconds=150)
HEADER = "X-Request-Timeout-Ms"

tables = MetaData()
rows = Table("deadline_rows", tables, Column("id", Integer, primary_key=True))


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


def limited(settings: Settings, deadline: timedelta | None = SHORT, **server: Any) -> Settings:
    http = settings.http.model_copy(update={"deadline": deadline})
    return settings.model_copy(update={"http": http, "server": settings.server.model_copy(update=server)})


def serving(
    settings: Settings, endpoint: Callable[..., Any], *markers: Depends, method: str = "GET"
) -> FastAPI:
    router = APIRouter(dependencies=[public])
    router.add_api_route("/", endpoint, methods=[method], dependencies=markers)
    return create_app(settings, routers=[router])


async def sleep() -> None:
    await asyncio.sleep(5)


async def tell_time_left() -> float | None:
    return seconds_left()


class TestCallers:
    """What callers say about their patience, and who is believed."""

    def waits(self, value: str, *, trusted: tuple[str, ...], caller: object = ("10.1.2.3", 99)) -> float:
        limits = TimeLimits(timedelta(seconds=30), header=HEADER, trusted=trusted)
        scope = {"headers": [(b"host", b"here"), (HEADER.lower().encode(), value.encode())], "client": caller}
        return limits.begin(scope).caller_waits

    @pytest.mark.parametrize("trusted", ["10.1.2.3", "10.0.0.0/8", "*", "10.1.2.3/8"])
    async def test_a_trusted_caller_is_believed(self, trusted: str) -> None:
        assert self.waits("2500", trusted=("192.0.2.1", trusted)) == 2.5

    @pytest.mark.parametrize("trusted", [(), ("127.0.0.1",), ("192.168.0.0/16", "proxy")])
    async def test_others_are_not(self, trusted: tuple[str, ...]) -> None:
        assert self.waits("2500", trusted=trusted) == inf

    @pytest.mark.parametrize("caller", [None, ("", 0), ("testclient", 50000), ("/run/socket", None)])
    async def test_a_caller_without_an_address_is_none_of_a_network(self, caller: object) -> None:
        assert self.waits("2500", trusted=("0.0.0.0/0",), caller=caller) == inf

    async def test_a_name_that_is_trusted_is_believed(self) -> None:
        assert self.waits("1", trusted=("testclient",), caller=("testclient", 50000)) == 0.001

    @pytest.mark.parametrize("value", ["", "-5", "1.5", "1e3", "+1", "soon", "٣", "9" * 10, "0x10", " 7"])
    async def test_nonsense_is_ignored(self, value: str) -> None:
        assert self.waits(value, trusted=("*",)) == inf

    async def test_of_several_the_shortest_counts(self) -> None:
        limits = TimeLimits(timedelta(seconds=30), header=HEADER, trusted=("*",))
        header = HEADER.lower().encode()
        headers = [(header, b"900"), (header, b"300"), (header, b"nonsense")]

        assert limits.begin({"headers": headers, "client": None}).caller_waits == 0.3

    async def test_it_shortens_the_deadline_and_never_lengthens_it(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        async with running(serving(limited(settings, timedelta(seconds=20)), tell_time_left)) as app:
            shortened = await ask(app, "GET", "/", headers={HEADER: "5000"})
            unchanged = await ask(app, "GET", "/", headers={HEADER: "60000"})

        assert 4 < shortened.json < 5
        assert 19 < unchanged.json < 20

    async def test_with_no_time_left_nothing_is_begun(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        ran: list[str] = []

        async def endpoint() -> None:
            ran.append("endpoint")

        async with running(serving(settings, endpoint)) as app:
            answer = await ask(app, "GET", "/", headers={HEADER: "0"})

        assert (answer.status, answer.headers["retry-after"], ran) == (503, "1", [])

    async def test_a_short_wait_is_kept_to_although_the_sweeper_looks_seldom(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        async with running(serving(settings, sleep)) as app:
            began = time.monotonic()
            answers = [await ask(app, "GET", "/", headers={HEADER: "30"}) for _ in range(8)]

        assert {answer.status for answer in answers} == {504}
        assert time.monotonic() - began < 8 * 0.1  # by the sweeper alone each would take that long


class TestEnd:
    async def test_without_a_deadline_a_handler_keeps_its_caller_waiting(self, ask: Any) -> None:
        """The fault, without our code."""
        plain = FastAPI()
        plain.add_api_route("/", sleep)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(plain, "GET", "/"), 4 * SHORT.total_seconds())

    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_a_handler_that_waits_elsewhere_is_ended(
        self, settings: Settings, ask: Any, running: Any, method: str
    ) -> None:
        async with running(serving(limited(settings), sleep, method=method)) as app:
            began = time.monotonic()
            answer = await ask(app, method, "/")

        assert answer.status == 504
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == "deadline_exceeded"
        assert answer.json["requestId"] == answer.headers["x-request-id"]
        assert 0.15 <= time.monotonic() - began < 0.5

    async def test_what_it_wrote_is_rolled_back(
        self, settings: Settings, database: Database, ask: Any, running: Any
    ) -> None:
        async def write_and_sleep(session: SessionDep) -> None:
            await session.execute(insert(rows).values(id=1))
            await asyncio.sleep(5)

        async with running(serving(limited(settings), write_and_sleep, method="POST")) as app:
            assert (await ask(app, "POST", "/")).status == 504

        async with database.reading() as session:
            assert await session.scalar(select(func.count()).select_from(rows)) == 0

    async def test_its_own_clean_up_runs_undisturbed(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        cleaned: list[str] = []

        async def endpoint() -> None:
            try:
                await asyncio.sleep(5)
            finally:
                await asyncio.sleep(0.2)
                cleaned.append("up")

        async with running(serving(limited(settings), endpoint)) as app:
            assert (await ask(app, "GET", "/")).status == 504

        assert cleaned == ["up"]

    async def test_a_commit_under_way_is_not_cancelled(
        self, settings: Settings, database: Database, ask: Any, running: Any
    ) -> None:
        left: list[float | None] = []

        async def follow() -> None:
            left.append(seconds_left())
            await asyncio.sleep(0.4)

        async def write(session: SessionDep) -> None:
            after_commit(session, follow)
            await session.execute(insert(rows).values(id=1))

        async with running(serving(limited(settings), write, method="POST")) as app:
            answer = await ask(app, "POST", "/")

        assert answer.status == 200
        assert left == [None]
        async with database.reading() as session:
            assert await session.scalar(select(func.count()).select_from(rows)) == 1

    async def test_a_cancellation_from_elsewhere_is_passed_on(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        async with running(serving(limited(settings), sleep)) as app:
            task = asyncio.create_task(ask(app, "GET", "/"))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_the_setting_0_is_for_ever(self, settings: Settings, ask: Any, running: Any) -> None:
        async with running(serving(limited(settings, timedelta(0)), tell_time_left)) as app:
            assert (await ask(app, "GET", "/")).json is None

    async def test_created_apps_have_30_seconds_and_installed_ones_as_many_as_they_had(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        met = FastAPI()
        met.add_api_route("/", tell_time_left)
        install(met, settings)

        async with running(serving(settings, tell_time_left)) as app:
            assert 29 < (await ask(app, "GET", "/")).json < 30
        async with running(met) as app:
            assert (await ask(app, "GET", "/")).json is None


class TestMarker:
    @pytest.mark.parametrize(
        ("limit", "least", "most"), [("5m", 299, 300), (timedelta(seconds=2), 1, 2)], ids=str
    )
    async def test_it_gives_a_route_more_time_or_less(
        self, settings: Settings, ask: Any, running: Any, limit: Any, least: float, most: float
    ) -> None:
        async with running(serving(settings, tell_time_left, time_limit(limit))) as app:
            assert least < (await ask(app, "GET", "/")).json < most

    async def test_none_is_for_as_long_as_it_takes_or_the_caller_waits(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        async with running(serving(settings, tell_time_left, time_limit(None))) as app:
            assert (await ask(app, "GET", "/")).json is None
            assert (await ask(app, "GET", "/", headers={HEADER: "900"})).json < 0.9

    async def test_a_short_one_is_kept_to(self, settings: Settings, ask: Any, running: Any) -> None:
        async with running(serving(settings, sleep, time_limit("50ms"))) as app:
            began = time.monotonic()
            assert (await ask(app, "GET", "/")).status == 504

        assert time.monotonic() - began < 0.3

    def test_it_refuses_what_is_no_length_of_time(self) -> None:
        with pytest.raises(ConfigurationError, match="time_limit"):
            time_limit("soon")

    def test_in_an_app_without_backstay_it_does_nothing(self) -> None:
        plain = FastAPI()
        plain.add_api_route("/", tell_time_left, dependencies=[time_limit("1s")])

        assert TestClient(plain).get("/").json() is None


async def count_slowly() -> AsyncIterator[bytes]:
    for number in range(8):
        yield b"%d" % number
        await asyncio.sleep(0.05)


async def stream() -> StreamingResponse:
    return StreamingResponse(count_slowly())


class TestStreams:
    async def test_a_stream_breaks_off_at_the_deadline(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        async with running(serving(limited(settings), stream)) as app:
            answer = await ask(app, "GET", "/")

        assert answer.status == 200
        assert b"012"[:2] in answer.body
        assert b"7" not in answer.body

    async def test_a_stream_with_a_marker_goes_on(self, settings: Settings, ask: Any, running: Any) -> None:
        async with running(serving(limited(settings), stream, time_limit(None))) as app:
            answer = await ask(app, "GET", "/")

        assert answer.body == b"01234567"

    async def test_a_mounted_app_may_send_for_longer(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        async def files(scope: Scope, receive: Receive, send: Send) -> None:
            await StreamingResponse(count_slowly())(scope, receive, send)

        app = create_app(limited(settings), public_paths=["/files"])
        app.mount("/files", files)
        async with running(app):
            answer = await ask(app, "GET", "/files/a")

        assert answer.body == b"01234567"


class TestWhatHasNone:
    async def test_a_background_task_has_no_deadline(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        seen: list[float | None] = []

        async def work() -> None:
            await asyncio.sleep(0.3)
            seen.append(seconds_left())

        async def endpoint(tasks: BackgroundTasks) -> None:
            tasks.add_task(work)

        async with running(serving(limited(settings), endpoint)) as app:
            assert (await ask(app, "GET", "/")).status == 200

        assert seen == [None]

    async def test_a_supervised_task_has_none_from_its_start(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        seen: list[float | None] = []

        async def work() -> None:
            seen.append(seconds_left())

        async def endpoint() -> None:
            await current_runtime().background.start(work(), name="work")

        async with running(serving(limited(settings), endpoint)) as app:
            assert (await ask(app, "GET", "/")).status == 200

        assert seen == [None]

    async def test_a_task_of_the_request_has_it_until_the_answer_is_sent(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        seen: list[float | None] = []
        tasks: list[asyncio.Task[None]] = []
        is_answered = asyncio.Event()

        async def work() -> None:
            seen.append(seconds_left())
            await is_answered.wait()
            seen.append(seconds_left())

        async def endpoint() -> None:
            tasks.append(asyncio.create_task(work()))
            await asyncio.sleep(0)

        async with running(serving(limited(settings), endpoint)) as app:
            assert (await ask(app, "GET", "/")).status == 200
            is_answered.set()
            await tasks[0]

        assert seen[0] is not None
        assert seen[1] is None

    def test_a_websocket_has_none(self, settings: Settings) -> None:
        app = create_app(limited(settings), dependencies=[public])

        @app.websocket("/")
        async def talk(socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_json(seconds_left())

        with TestClient(app) as client, client.websocket_connect("/") as socket:
            assert socket.receive_json() is None

    async def test_a_script_has_none(self, settings: Settings) -> None:
        async with open_runtime(limited(settings)) as runtime, runtime.database.transaction() as session:
            await session.execute(text("SELECT 1"))
            assert seconds_left() is None


async def test_on_sqlite_the_wait_for_the_lock_ends_by_the_deadline(
    settings: Settings, database: Database, ask: Any, running: Any
) -> None:
    async def write(session: SessionDep) -> None:
        await session.execute(insert(rows).values(id=1))

    async with running(serving(limited(settings), write, method="POST")) as app:
        async with database.transaction() as session:
            await session.execute(select(rows))
            began = time.monotonic()
            answer = await ask(app, "POST", "/")
            seconds = time.monotonic() - began
        later = await ask(app, "POST", "/")

    assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
    assert seconds < 0.5
    assert later.status == 200


@pytest.mark.databases("postgresql")
class TestStatements:
    async def test_those_of_a_transaction_may_run_for_as_long_as_is_left(
        self, settings: Settings, database: Database, ask: Any, running: Any
    ) -> None:
        async def show(session: SessionDep) -> str:
            return str(await session.scalar(text("SHOW statement_timeout")))

        async with running(serving(limited(settings, timedelta(seconds=20)), show)) as app:
            shown = (await ask(app, "GET", "/")).json
            async with app.state.backstay.database.transaction() as session:
                later = await session.scalar(text("SHOW statement_timeout"))

        assert 19_000 < int(shown.removesuffix("ms")) < 20_000
        assert later == "0"

    async def test_one_that_runs_out_of_time_keeps_its_connection(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        async def run_long(session: SessionDep) -> None:
            await session.execute(text("SELECT pg_sleep(5)"))

        async with running(serving(limited(settings), run_long, method="POST")) as app:
            answer = await ask(app, "POST", "/")
            use = app.state.backstay.database.pools()[0]

        assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
        assert (use.checked_out, use.idle) == (0, 1)

    async def test_one_that_an_administrator_stops_is_no_deadline(
        self, settings: Settings, database: Database, ask: Any, running: Any
    ) -> None:
        async def run_long(session: SessionDep) -> None:
            await session.execute(text("SELECT pg_sleep(5) /* to be stopped */"))

        async with running(serving(settings, run_long, method="POST")) as app:
            asking = asyncio.create_task(ask(app, "POST", "/"))
            stop = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%be stopped%'"
            while not asking.done():
                async with database.reading() as session:
                    own = "AND datname = current_database() AND pid <> pg_backend_pid()"
                    await session.execute(text(f"{stop} {own}"))
                await asyncio.sleep(0.02)
            answer = await asking

        assert (answer.status, answer.headers["retry-after"]) == (503, "1")

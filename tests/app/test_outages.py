"""What may run again outlives the loss of its connection; what has committed, or may have, runs once."""

import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.params import Depends
from pydantic import SecretStr
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.exc import DBAPIError
from starlette.responses import Response

from backstay import ReadSessionDep, SessionDep, after_commit, create_app, current_runtime, public, repeatable
from backstay.app import _outage
from backstay.db import Database, as_app_error, is_lost
from backstay.errors import OutcomeUnknownError, UnavailableError
from backstay.events import RequestRepeated
from backstay.settings import Settings

pytestmark = pytest.mark.databases("postgresql")

tables = MetaData()
rows = Table("outage_rows", tables, Column("id", Integer, primary_key=True))


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


def serving(
    settings: Settings, endpoint: Callable[..., Any], *markers: Depends, method: str = "GET"
) -> FastAPI:
    router = APIRouter(dependencies=[public])
    router.add_api_route("/", endpoint, methods=[method], dependencies=markers)
    return create_app(settings, routers=[router])


async def count(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(rows)) or 0


async def lose(session: Any) -> None:
    """Make the server end this session's connection, as it does when it stops."""
    backend = await session.scalar(text("SELECT pg_backend_pid()"))
    async with current_runtime().database.engine.connect() as other:
        await other.execute(text(f"SELECT pg_terminate_backend({backend:d})"))
    await session.execute(text("SELECT pg_sleep(1)"))


class Losing:
    """Loses the connection of the first attempts at a request."""

    def __init__(self, times: int = 1) -> None:
        self.times = times
        self.attempts = 0

    async def lose(self, session: Any) -> None:
        self.attempts += 1
        if self.attempts <= self.times:
            await lose(session)


class TestReads:
    async def test_a_read_runs_again(self, settings: Settings, ask: Any, running: Any, events: Any) -> None:
        losing = Losing(times=3)

        async def read(session: ReadSessionDep) -> int:
            await losing.lose(session)
            return int(await session.scalar(text("SELECT 7")) or 0)

        async with running(serving(settings, read)) as app:
            answer = await ask(app, "GET", "/")

        assert (answer.status, answer.json) == (200, 7)
        assert [event.attempt for event in events.of(RequestRepeated)] == [1, 2, 3]

    async def test_one_that_used_a_writing_session_does_not(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        losing = Losing()

        async def read(session: SessionDep) -> None:
            await losing.lose(session)

        async with running(serving(settings, read)) as app:
            answer = await ask(app, "GET", "/")

        assert (answer.status, answer.headers["retry-after"], losing.attempts) == (503, "1", 1)

    async def test_one_that_has_committed_something_does_not(
        self, settings: Settings, database: Database, ask: Any, running: Any
    ) -> None:
        losing = Losing()

        async def count_visits(reading: ReadSessionDep) -> None:
            async with current_runtime().database.transaction() as session:
                await session.execute(insert(rows).values(id=losing.attempts))
            await losing.lose(reading)

        async with running(serving(settings, count_visits)) as app:
            assert (await ask(app, "GET", "/")).status == 503

        assert await count(database) == 1

    async def test_while_the_database_stays_away_nobody_waits_for_it(
        self, settings: Settings, ask: Any, running: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_outage, "_LONGEST_WAIT_SECONDS", 0.2)
        app = serving(nowhere(settings), read_one)

        async with running(app):
            first, first_seconds = await timed(ask(app, "GET", "/"))
            second, second_seconds = await timed(ask(app, "GET", "/"))

        assert first.status == second.status == 503
        assert first_seconds > 0.15
        assert second_seconds < 0.15

    async def test_the_deadline_ends_the_attempts(self, settings: Settings, ask: Any, running: Any) -> None:
        app = serving(nowhere(settings), read_one)

        async with running(app):
            answer, seconds = await timed(ask(app, "GET", "/", headers={"X-Request-Timeout-Ms": "300"}))

        assert answer.status in {503, 504}
        assert 0.2 < seconds < 0.5


def nowhere(settings: Settings) -> Settings:
    url = SecretStr("postgresql://nobody@127.0.0.1:1/none")
    return settings.model_copy(update={"database": settings.database.model_copy(update={"url": url})})


async def read_one(session: ReadSessionDep) -> int:
    return int(await session.scalar(text("SELECT 1")) or 0)


async def timed(asking: Any) -> tuple[Any, float]:
    began = time.monotonic()
    return await asking, time.monotonic() - began


class TestWrites:
    async def test_a_repeatable_write_runs_again(
        self, settings: Settings, database: Database, ask: Any, running: Any
    ) -> None:
        losing = Losing()

        async def write(session: SessionDep) -> None:
            await session.execute(insert(rows).values(id=1))
            await losing.lose(session)

        async with running(serving(settings, write, repeatable, method="POST")) as app:
            assert (await ask(app, "POST", "/")).status == 200

        assert (losing.attempts, await count(database)) == (2, 1)

    async def test_also_when_a_handler_of_errors_would_have_answered(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        losing = Losing()

        async def write(session: SessionDep) -> None:
            await losing.lose(session)

        async def answer(request: Request, error: Exception) -> Response:
            return Response(status_code=418)

        app = serving(settings, write, repeatable, method="POST")
        app.add_exception_handler(DBAPIError, answer)
        async with running(app):
            assert (await ask(app, "POST", "/")).status == 200

        assert losing.attempts == 2

    async def test_any_other_write_is_told_that_nothing_was_saved(
        self, settings: Settings, database: Database, ask: Any, running: Any
    ) -> None:
        losing = Losing()

        async def write(session: SessionDep) -> None:
            await session.execute(insert(rows).values(id=1))
            await losing.lose(session)

        async with running(serving(settings, write, method="POST")) as app:
            answer = await ask(app, "POST", "/")

        assert (answer.status, answer.json["code"], losing.attempts) == (503, "unavailable", 1)
        assert await count(database) == 0


class Commits:
    """Loses connections during COMMIT, before or after it has happened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, happens: bool) -> None:
        self._commit: Callable[[Any], None] = AsyncAdapt_asyncpg_connection.commit
        self._left = 1
        self._happens = happens

        def lose(driver: Any) -> None:
            self._lose(driver)

        monkeypatch.setattr(AsyncAdapt_asyncpg_connection, "commit", lose)

    def _lose(self, driver: Any) -> None:
        if driver._transaction is None or not self._left:
            self._commit(driver)
            return
        self._left -= 1
        if self._happens:
            self._commit(driver)
        driver._connection.terminate()
        driver._handle_exception(asyncpg.ConnectionDoesNotExistError("lost"))


@pytest.mark.parametrize("happens", [True, False])
class TestLostCommits:
    async def test_a_repeatable_one_is_found_out_about_and_done_once(
        self,
        settings: Settings,
        database: Database,
        ask: Any,
        running: Any,
        monkeypatch: pytest.MonkeyPatch,
        happens: bool,
    ) -> None:
        attempts: list[str] = []
        followed: list[str] = []

        async def write(session: SessionDep) -> None:
            attempts.append("one")
            after_commit(session, followed.append, "committed")
            await session.execute(insert(rows).values(id=1))

        async with running(serving(settings, write, repeatable, method="POST")) as app:
            Commits(monkeypatch, happens=happens)
            answer = await ask(app, "POST", "/")

        assert answer.status == 200
        assert len(attempts) == (1 if happens else 2)
        assert followed == ["committed"]
        assert await count(database) == 1

    async def test_of_any_other_the_outcome_is_unknown(
        self,
        settings: Settings,
        database: Database,
        ask: Any,
        running: Any,
        monkeypatch: pytest.MonkeyPatch,
        happens: bool,
    ) -> None:
        attempts: list[str] = []

        async def write(session: SessionDep) -> None:
            attempts.append("one")
            await session.execute(insert(rows).values(id=1))

        async with running(serving(settings, write, method="POST")) as app:
            Commits(monkeypatch, happens=happens)
            answer = await ask(app, "POST", "/")

        assert (answer.status, answer.json["code"], len(attempts)) == (503, "outcome_unknown", 1)
        assert await count(database) == int(happens)


async def test_a_repeatable_read_that_is_lost_while_it_commits_has_written_nothing(
    settings: Settings, ask: Any, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(session: SessionDep) -> int:
        return int(await session.scalar(text("SELECT 7")) or 0)

    async with running(serving(settings, read, repeatable, method="POST")) as app:
        Commits(monkeypatch, happens=True)
        answer = await ask(app, "POST", "/")

    assert (answer.status, answer.json) == (200, 7)


async def test_the_number_of_a_transaction_is_asked_for_by_nobody_who_counts(
    settings: Settings, ask: Any, running: Any, assert_queries: Any
) -> None:
    async def write(session: SessionDep) -> None:
        await session.execute(insert(rows).values(id=1))

    async with running(serving(settings, write, repeatable, method="POST")) as app:
        with assert_queries(1):
            assert (await ask(app, "POST", "/")).status == 200


def test_a_connection_that_is_lost_before_it_is_ready_is_no_fault_of_the_service() -> None:
    error = asyncpg.InterfaceError("connection is closed")

    assert is_lost(error)
    assert isinstance(as_app_error(error), UnavailableError)
    assert not is_lost(asyncpg.InterfaceError("cannot perform operation: another operation is in progress"))
    assert not is_lost(OutcomeUnknownError())


async def test_an_outage_that_is_over_counts_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    outage, now = _outage.Outage(), [100.0]
    monkeypatch.setattr(_outage, "monotonic", lambda: now[0])
    outage.note()
    now[0] = 101.9
    outage.note()
    now[0] = 105.1
    was_short = outage.is_short
    outage.note()  # nothing was lost for so long that this is another one

    assert not was_short
    assert outage.is_short

    now[0] = 106.9
    outage.note()
    now[0] = 108.8
    outage.note()
    outage.end()
    now[0] = 110.2
    outage.note()  # there were connections meanwhile

    assert outage.is_short
    assert all(0 <= outage.choose_pause(attempt) <= 0.25 for attempt in range(1, 40))

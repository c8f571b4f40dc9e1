"""docs/decisions/0001-unit-of-work.md, sentence by sentence, on SQLite and PostgreSQL."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import anyio
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.testclient import TestClient
from sqlalchemy import ForeignKey, MetaData, func, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import QueuePool
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from backstay import ReadSessionDep, SessionDep, after_commit, create_app, current_runtime, public, repeatable
from backstay.db import Database
from backstay.errors import ConflictError, ReadOnlySessionError, SessionEndedError, UsageError
from backstay.settings import Settings

pytestmark = pytest.mark.databases("sqlite", "postgresql")


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)
    # Checked at COMMIT and not before: the way to make a commit fail on both databases.
    parent_id: Mapped[int | None] = mapped_column(
        ForeignKey("notes.id", deferrable=True, initially="DEFERRED")
    )


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Base.metadata


Serve = Callable[..., FastAPI]


@pytest.fixture
def serve(settings: Settings) -> Serve:
    def make(*routes: tuple[str, Callable[..., Any]], **options: Any) -> FastAPI:
        router = APIRouter()
        for path, endpoint in routes:
            router.add_api_route(path, endpoint, methods=["POST", "GET"], **options)
        return create_app(settings, routers=[router], dependencies=[public])

    return make


def checked_out(database: Database) -> int:
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


async def texts(database: Database) -> list[str]:
    async with database.reading() as session:
        return list(await session.scalars(select(Note.text).order_by(Note.id)))


async def write(session: SessionDep) -> dict[str, str]:
    session.add(Note(text="written"))
    return {"is": "written"}


class TestCommitPoint:
    async def test_a_plain_yield_dependency_commits_after_the_response_has_started(
        self, database: Database, ask: Any
    ) -> None:
        """The fault, without our code."""
        maker = async_sessionmaker(database.engine, expire_on_commit=False)

        async def usual_session() -> AsyncIterator[AsyncSession]:
            async with maker() as session:
                yield session
                await session.commit()

        app = FastAPI()

        @app.post("/")
        async def plain(session: Annotated[AsyncSession, Depends(usual_session)]) -> dict[str, str]:
            return await write(session)

        seen: list[list[str]] = []

        async def look() -> None:
            seen.append(await texts(database))

        answer = await ask(app, "POST", "/", at_start=look)

        assert answer.status == 200
        assert seen == [[]]

    async def test_a_write_is_durable_before_the_response_starts(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        seen: list[list[str]] = []

        async def look() -> None:
            seen.append(await texts(database))

        async with running(serve(("/", write))) as app:
            answer = await ask(app, "POST", "/", at_start=look)

        assert answer.status == 200
        assert seen == [["written"]]

    async def test_a_returned_success_response_commits(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> Response:
            await write(session)
            return Response(status_code=204)

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).status == 204

        assert await texts(database) == ["written"]

    async def test_what_all_dependencies_write_is_one_transaction(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def one(session: SessionDep) -> AsyncSession:
            session.add(Note(text="one"))
            return session

        async def endpoint(session: SessionDep, first: Annotated[AsyncSession, Depends(one)]) -> bool:
            session.add(Note(text="two"))
            return session is first

        async with running(serve(("/", endpoint))) as app:
            answer = await ask(app, "POST", "/")

        assert answer.json is True
        assert await texts(database) == ["one", "two"]

    async def test_a_route_that_does_not_use_its_session_takes_no_connection(
        self, serve: Serve, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> int:
            return checked_out(current_runtime().database)

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "GET", "/")).json == 0


class TestRollback:
    @pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 503])
    async def test_a_returned_error_response_rolls_back(
        self, serve: Serve, database: Database, ask: Any, running: Any, status: int
    ) -> None:
        async def endpoint(session: SessionDep) -> Response:
            await write(session)
            await session.flush()
            return JSONResponse({}, status_code=status)

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).status == status

        assert await texts(database) == []

    @pytest.mark.parametrize(
        ("error", "status"),
        [(HTTPException(404), 404), (ConflictError("taken"), 409), (RuntimeError("bug"), 500)],
    )
    async def test_a_raised_error_rolls_back(
        self, serve: Serve, database: Database, ask: Any, running: Any, error: Exception, status: int
    ) -> None:
        async def endpoint(session: SessionDep) -> None:
            await write(session)
            await session.flush()
            raise error

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).status == status

        assert await texts(database) == []

    async def test_an_error_that_a_handler_turns_into_a_redirect_rolls_back(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        class GoElsewhereError(Exception):
            pass

        async def endpoint(session: SessionDep) -> None:
            await write(session)
            raise GoElsewhereError

        app = serve(("/", endpoint))
        app.add_exception_handler(GoElsewhereError, lambda *_: RedirectResponse("/other", 303))
        async with running(app):
            assert (await ask(app, "POST", "/")).status == 303

        assert await texts(database) == []

    async def test_a_response_that_cannot_be_serialised_rolls_back(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> list[int]:
            await write(session)
            return ["not a number"]  # type: ignore[list-item]  # the point

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).status == 500

        assert await texts(database) == []

    async def test_an_explicit_commit_stays_whatever_the_status(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> Response:
            await write(session)
            await session.commit()
            session.add(Note(text="second"))
            return Response(status_code=409)

        async with running(serve(("/", endpoint))) as app:
            await ask(app, "POST", "/")

        assert await texts(database) == ["written"]


async def write_orphan(session: SessionDep, tasks: BackgroundTasks, response: Response) -> dict[str, str]:
    tasks.add_task(ran.append, "background")
    response.headers["X-Success"] = "yes"
    session.add(Note(text="orphan", parent_id=4711))
    return {"is": "written"}


ran: list[str] = []


@pytest.fixture(autouse=True)
def forget_runs() -> Iterator[None]:
    yield
    ran.clear()


class TestFailingCommit:
    async def test_a_commit_that_fails_answers_with_a_problem_and_drops_the_response(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async with running(serve(("/", write_orphan))) as app:
            answer = await ask(app, "POST", "/")

        assert answer.status == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == "conflict"
        assert "x-success" not in answer.headers
        assert ran == []
        assert await texts(database) == []

    async def test_a_handler_of_the_app_may_answer_for_a_failed_commit(
        self, serve: Serve, ask: Any, running: Any
    ) -> None:
        app = serve(("/", write_orphan))
        app.add_exception_handler(IntegrityError, lambda *_: JSONResponse({"own": True}, 418))
        async with running(app):
            answer = await ask(app, "POST", "/")

        assert (answer.status, answer.json) == (418, {"own": True})

    async def test_the_next_request_is_served_as_if_nothing_had_happened(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async with running(serve(("/orphan", write_orphan), ("/", write))) as app:
            await ask(app, "POST", "/orphan")
            assert (await ask(app, "POST", "/")).status == 200

        assert await texts(database) == ["written"]

    async def test_a_middleware_that_swallows_the_failure_cannot_answer_with_success(
        self, serve: Serve, ask: Any, running: Any
    ) -> None:
        class Swallow:
            def __init__(self, app: ASGIApp) -> None:
                self.app = app

            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                try:
                    await self.app(scope, receive, send)
                except Exception:  # noqa: BLE001  what such middlewares do
                    await JSONResponse({"all": "well"})(scope, receive, send)

        app = serve(("/", write_orphan))
        app.user_middleware.append(Middleware(Swallow))
        async with running(app):
            answer = await ask(app, "POST", "/")

        assert answer.status == 409

    async def test_a_swallowed_database_error_is_not_a_success(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> str:
            await session.execute(text("INSERT INTO notes (id, text) VALUES (1, 'first')"))
            with contextlib.suppress(IntegrityError):
                await session.execute(text("INSERT INTO notes (id, text) VALUES (1, 'second')"))
            return "fine"

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).status == 500

        assert await texts(database) == []

    async def test_a_database_error_inside_a_savepoint_may_be_swallowed(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> str:
            await session.execute(text("INSERT INTO notes (id, text) VALUES (1, 'first')"))
            with contextlib.suppress(IntegrityError):
                async with session.begin_nested():
                    await session.execute(text("INSERT INTO notes (id, text) VALUES (1, 'second')"))
            return "fine"

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).status == 200

        assert await texts(database) == ["first"]


class TestAfterTheResponse:
    async def test_a_stream_starts_after_the_commit_and_reads_with_a_session_of_its_own(
        self, serve: Serve, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> StreamingResponse:
            await write(session)

            async def body() -> AsyncIterator[str]:
                async with current_runtime().database.reading() as reading:
                    for line in await reading.scalars(select(Note.text)):
                        yield line

            return StreamingResponse(body())

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).body == b"written"

    async def test_a_stream_that_uses_the_ended_session_is_told_what_to_do(
        self, serve: Serve, ask: Any, running: Any
    ) -> None:
        errors: list[Exception] = []

        async def endpoint(session: SessionDep) -> StreamingResponse:
            async def body() -> AsyncIterator[str]:
                try:
                    await session.execute(text("SELECT 1"))
                except SessionEndedError as error:
                    errors.append(error)
                yield "end"

            return StreamingResponse(body())

        async with running(serve(("/", endpoint))) as app:
            await ask(app, "GET", "/")

        assert "database.reading()" in str(errors[0])

    async def test_a_background_task_finds_the_row_committed(
        self, serve: Serve, ask: Any, running: Any
    ) -> None:
        async def look() -> None:
            ran.extend(await texts(current_runtime().database))

        async def endpoint(session: SessionDep, tasks: BackgroundTasks) -> None:
            tasks.add_task(look)
            await write(session)

        async with running(serve(("/", endpoint))) as app:
            await ask(app, "POST", "/")

        assert ran == ["written"]

    async def test_a_session_that_is_used_after_its_end_refuses(
        self, serve: Serve, ask: Any, running: Any
    ) -> None:
        kept: list[AsyncSession] = []

        async def endpoint(session: SessionDep) -> None:
            kept.append(session)

        async with running(serve(("/", endpoint))) as app:
            await ask(app, "POST", "/")
            with pytest.raises(SessionEndedError):
                await kept[0].scalar(select(Note))
            with pytest.raises(InvalidRequestError):
                kept[0].add(Note(text="late"))


class TestOwnDependencies:
    async def test_a_function_scoped_yield_dependency_may_write_in_its_exit(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def audited(session: SessionDep) -> AsyncIterator[None]:
            yield
            session.add(Note(text="audit"))

        async def endpoint(
            session: SessionDep, _: Annotated[None, Depends(audited, scope="function")]
        ) -> None:
            await write(session)

        async with running(serve(("/", endpoint))) as app:
            await ask(app, "POST", "/")

        assert sorted(await texts(database)) == ["audit", "written"]

    async def test_a_request_scoped_yield_dependency_exits_after_the_commit(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def watching(session: SessionDep) -> AsyncIterator[None]:
            yield
            ran.extend(await texts(database))
            with pytest.raises(SessionEndedError):
                await session.execute(text("SELECT 1"))
            ran.append("refused")

        async def endpoint(session: SessionDep, _: Annotated[None, Depends(watching)]) -> None:
            await write(session)

        async with running(serve(("/", endpoint))) as app:
            await ask(app, "POST", "/")

        assert ran == ["written", "refused"]

    async def test_a_yield_dependency_that_raises_in_its_function_scoped_exit_rolls_back(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def strict(session: SessionDep) -> AsyncIterator[None]:
            yield
            raise ConflictError("too many")

        async def endpoint(
            session: SessionDep, _: Annotated[None, Depends(strict, scope="function")]
        ) -> None:
            await write(session)
            await session.flush()

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).status == 409

        assert await texts(database) == []


class Conflict(Exception):  # noqa: N818  stands for what a driver raises
    """What PostgreSQL says when two serializable transactions meet."""

    sqlstate = "40001"


class TestRepeating:
    async def test_a_repeatable_route_runs_again_with_its_body_and_dependencies(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        attempts: list[Any] = []

        async def dependency(request: Request) -> None:
            attempts.append(await request.json())

        async def endpoint(session: SessionDep, body: dict[str, str]) -> int:
            session.add(Note(text=body["text"]))
            await session.flush()
            if len(attempts) < 3:
                raise Conflict
            return len(attempts)

        app = serve(("/", endpoint), dependencies=[repeatable, Depends(dependency)])
        async with running(app):
            answer = await ask(app, "POST", "/", json={"text": "once"})

        assert (answer.status, answer.json) == (200, 3)
        assert attempts == [{"text": "once"}] * 3
        assert await texts(database) == ["once"]

    async def test_a_conflict_that_a_handler_answered_is_repeated_too(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> str:
            ran.append("attempt")
            await write(session)
            if len(ran) == 1:
                raise Conflict
            return "fine"

        app = serve(("/", endpoint), dependencies=[repeatable])
        app.add_exception_handler(Conflict, lambda *_: JSONResponse({}, 409))
        async with running(app):
            assert (await ask(app, "POST", "/")).status == 200

        assert ran == ["attempt"] * 2
        assert await texts(database) == ["written"]

    async def test_repeating_ends_and_says_that_trying_again_may_help(
        self, serve: Serve, settings: Settings, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> None:
            ran.append("attempt")
            raise Conflict

        async with running(serve(("/", endpoint), dependencies=[repeatable])) as app:
            answer = await ask(app, "POST", "/")

        assert answer.status == 503
        assert answer.json["code"] == "retryable"
        assert answer.headers["retry-after"]
        assert len(ran) == 1 + settings.database.repeat_attempts

    async def test_a_route_that_is_not_marked_runs_once(self, serve: Serve, ask: Any, running: Any) -> None:
        async def endpoint(session: SessionDep) -> None:
            ran.append("attempt")
            raise Conflict

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).status == 503

        assert ran == ["attempt"]

    async def test_a_request_that_committed_part_of_its_work_runs_once(
        self, serve: Serve, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: SessionDep) -> None:
            ran.append("attempt")
            await write(session)
            await session.commit()
            raise Conflict

        async with running(serve(("/", endpoint), dependencies=[repeatable])) as app:
            assert (await ask(app, "POST", "/")).status == 503

        assert ran == ["attempt"]


class TestSavepointsAndCalls:
    async def test_calls_run_after_the_commit_and_before_the_response(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def look() -> None:
            ran.extend(await texts(database))

        async def started() -> None:
            ran.append("started")

        async def endpoint(session: SessionDep) -> None:
            after_commit(session, look)
            await write(session)

        async with running(serve(("/", endpoint))) as app:
            await ask(app, "POST", "/", at_start=started)

        assert ran == ["written", "started"]

    async def test_a_call_that_fails_changes_no_answer_and_stops_no_other(
        self, serve: Serve, ask: Any, running: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise RuntimeError("mail server down")

        async def endpoint(session: SessionDep) -> None:
            after_commit(session, fail)
            after_commit(session, ran.append, "next")
            await write(session)

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "POST", "/")).status == 200

        assert ran == ["next"]
        assert "the commit stands" in caplog.text

    async def test_calls_are_dropped_with_a_rollback(self, serve: Serve, ask: Any, running: Any) -> None:
        async def endpoint(session: SessionDep) -> Response:
            await write(session)
            after_commit(session, ran.append, "called")
            return Response(status_code=400)

        async with running(serve(("/", endpoint))) as app:
            await ask(app, "POST", "/")

        assert ran == []


class TestCancellation:
    async def test_a_cancel_scope_around_a_query_leaves_nothing_checked_out(
        self, serve: Serve, ask: Any, running: Any, slow: str
    ) -> None:
        async def endpoint(session: SessionDep) -> str:
            await session.execute(text("SELECT 1"))  # else a slow connect is what is cancelled, and no harm
            with anyio.move_on_after(0.05):
                await session.execute(text(slow))
            return "gave up"

        async with running(serve(("/", endpoint))) as app:
            status = (await ask(app, "GET", "/")).status
            assert checked_out(app.state.backstay.database) == 0

        assert status >= 500

    async def test_a_write_before_a_query_that_was_cancelled_is_not_answered_with_success(
        self, serve: Serve, database: Database, ask: Any, running: Any, slow: str
    ) -> None:
        """The cancellation took the transaction with it, so there is nothing to commit."""

        async def endpoint(session: SessionDep) -> str:
            await write(session)
            await session.flush()
            with anyio.move_on_after(0.05):
                await session.execute(text(slow))
            return "gave up"

        async with running(serve(("/", endpoint))) as app:
            answer = await ask(app, "POST", "/")

        assert answer.status >= 500
        assert await texts(database) == []


@pytest.fixture
def slow(database: Database) -> str:
    """A statement that takes longer than a test."""
    if database.is_postgresql:
        return "SELECT pg_sleep(30)"
    return "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


class TestReading:
    async def test_a_reading_session_sees_the_latest_commit_and_refuses_to_write(
        self, serve: Serve, database: Database, ask: Any, running: Any
    ) -> None:
        async def endpoint(session: ReadSessionDep) -> int:
            async with database.transaction() as writing:
                writing.add(Note(text="meanwhile"))
            with pytest.raises(ReadOnlySessionError):
                session.add(Note(text="refused"))
                await session.flush()
            session.expunge_all()
            return await session.scalar(select(func.count()).select_from(Note)) or 0

        async with running(serve(("/", endpoint))) as app:
            assert (await ask(app, "GET", "/")).json == 1


async def test_outside_its_lifespan_the_app_says_how_to_start_it(
    serve: Serve, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await ask(serve(("/", write)), "POST", "/")

    assert answer.status == 500
    assert "with TestClient(app) as client" in caplog.text


async def test_a_websocket_is_told_to_open_its_own_transactions(serve: Serve, running: Any) -> None:
    app = serve(("/", write))

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, session: SessionDep) -> None:
        await websocket.accept()

    with (
        TestClient(app) as client,
        pytest.raises(UsageError, match="WebSocket"),
        client.websocket_connect("/socket"),
    ):
        pass

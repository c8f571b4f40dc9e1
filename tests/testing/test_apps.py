"""The project's app in a test: in the test's own event loop, or behind a real server."""

import threading
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict

import pytest
from fastapi import APIRouter, FastAPI, Request
from httpx2 import AsyncClient, ConnectError
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backstay import ReadSessionDep, Runtime, SessionDep, create_app, current_runtime, public
from backstay.db import AsyncSession, Database
from backstay.errors import UsageError
from backstay.settings import Settings
from backstay.testing import Events, LiveServer
from backstay.testing._live_server import serve
from backstay.testing._template import Tables

from .conftest import Project

pytestmark = pytest.mark.databases("sqlite", "postgresql")


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)


router = APIRouter()


@router.post("/notes", status_code=201)
async def add_note(session: SessionDep) -> None:
    session.add(Note())


@router.get("/notes")
async def count_notes(session: ReadSessionDep) -> int:
    return await session.scalar(select(func.count()).select_from(Note)) or 0


@router.get("/broken")
async def break_down() -> None:
    raise RuntimeError


@router.get("/greeting")
async def greet(request: Request) -> str:
    return str(request.state.greeting)


class State(TypedDict):
    greeting: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    yield {"greeting": f"hello from {current_runtime().settings.environment}"}


@pytest.fixture(scope="module")
def metadata() -> Tables:
    return Base.metadata


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], lifespan=lifespan, dependencies=[public])


async def count(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(Note)) or 0


class TestClient:
    """Calls without a socket."""

    async def test_what_the_app_commits_is_in_the_database(
        self, client: AsyncClient, database: Database
    ) -> None:
        assert (await client.post("/notes")).status_code == 201
        assert await count(database) == 1

    async def test_the_database_is_the_app_s_own(
        self, client: AsyncClient, app: FastAPI, database: Database, runtime: Runtime
    ) -> None:
        assert app.state.backstay.database is database
        assert current_runtime() is runtime

    async def test_an_error_is_an_answer(self, client: AsyncClient) -> None:
        assert (await client.get("/broken")).status_code == 500

    async def test_what_the_lifespan_yields_reaches_requests(self, client: AsyncClient) -> None:
        assert (await client.get("/greeting")).json() == "hello from test"

    async def test_committed_rows_are_seen(self, client: AsyncClient, session: AsyncSession) -> None:
        session.add(Note())
        await session.commit()
        assert (await client.get("/notes")).json() == 1

    async def test_a_session_left_open_is_named_instead_of_waited_for(
        self, client: AsyncClient, session: AsyncSession
    ) -> None:
        session.add(Note())
        await session.flush()
        with pytest.raises(UsageError, match=r"\(GET /notes\): write `await session.commit\(\)` first"):
            await client.get("/notes")


async def test_an_app_alone_is_not_started(app: FastAPI) -> None:
    assert not app.state.backstay.has_started


def test_a_sync_test_may_ask_for_it_all(client: AsyncClient, session: AsyncSession, runtime: Runtime) -> None:
    assert runtime.settings.environment == "test"


class TestLiveServer:
    """Calls over real sockets."""

    async def test_it_answers_and_commits(self, live_server: LiveServer, database: Database) -> None:
        async with AsyncClient(base_url=live_server.url) as caller:
            assert (await caller.post("/notes")).status_code == 201
        assert await count(database) == 1

    async def test_the_client_speaks_to_it(
        self, client: AsyncClient, live_server: LiveServer, session: AsyncSession
    ) -> None:
        session.add(Note())
        await session.commit()
        assert str(client.base_url).rstrip("/") == live_server.url
        assert (await client.get("/notes")).json() == 1

    async def test_beside_it_the_runtime_is_the_test_s_own(
        self, live_server: LiveServer, app: FastAPI, runtime: Runtime, database: Database
    ) -> None:
        assert app.state.backstay.runtime is not runtime
        assert runtime.database is database
        assert current_runtime() is runtime

    def test_a_sync_test_may_call_it(self, live_server: LiveServer) -> None:
        assert read(f"{live_server.url}/greeting") == b'"hello from test"'

    async def test_its_events_are_recorded(
        self, client: AsyncClient, live_server: LiveServer, events: Events
    ) -> None:
        await client.post("/notes")
        assert "TransactionCommitted" in {type(event).__name__ for event in events}

    def test_the_request_under_way_is_answered_at_the_stop(self, settings: Settings) -> None:
        arrived, may_leave = threading.Event(), threading.Event()
        slow = APIRouter()

        @slow.get("/slow")
        def wait() -> str:
            arrived.set()
            may_leave.wait()
            return "done"

        with ThreadPoolExecutor() as callers:
            with serve(create_app(settings, routers=[slow], dependencies=[public])) as url:
                answer = callers.submit(read, f"{url}/slow")
                arrived.wait()
                threading.Timer(0.3, may_leave.set).start()  # by then the server is stopping
            assert answer.result() == b'"done"'

    def test_a_request_that_never_ends_is_told_of(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("backstay.testing._live_server._STOP_SECONDS", 0.2)
        arrived, may_leave = threading.Event(), threading.Event()
        slow = APIRouter()

        @slow.get("/slow")
        async def block() -> None:  # the whole loop: a thread of the pool would not keep the server alive
            arrived.set()
            may_leave.wait()

        with ThreadPoolExecutor() as callers:
            with (
                pytest.raises(RuntimeError, match=r"did not stop within 0.2 s"),
                serve(create_app(settings, routers=[slow], dependencies=[public])) as url,
            ):
                answer = callers.submit(read, f"{url}/slow")
                arrived.wait()
            may_leave.set()
            assert answer.exception(timeout=10) is None

    async def test_it_is_gone_after_the_block(self, app: FastAPI) -> None:
        with serve(app) as url:
            pass
        with pytest.raises(ConnectError):
            async with AsyncClient() as caller:
                await caller.get(url)

    async def test_an_app_that_does_not_start_says_so(
        self, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        @asynccontextmanager
        async def fail(app: FastAPI) -> AsyncIterator[None]:
            (tmp_path / "no-such-file").unlink()
            yield

        app = FastAPI(lifespan=fail)
        with pytest.raises(RuntimeError, match="did not start; its log says why"), serve(app):
            pass
        assert "no-such-file" in caplog.text


def read(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:  # noqa: S310  ours
        content: bytes = response.read()
        return content


MAIN = """
from backstay import Settings, SessionDep, create_app, public
from backstay.settings import SettingsConfigDict
from fastapi import APIRouter, Depends
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class ShopSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="SHOP_", env_file=None)

class Model(DeclarativeBase):
    pass

class Product(Model):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)

def visitor() -> str:
    return "somebody"

router = APIRouter()

@router.post("/products", status_code=201)
async def add(session: SessionDep, who: str = Depends(visitor)) -> str:
    session.add(Product())
    return who

app = create_app(ShopSettings(name="shop"), routers=[router], dependencies=[public])
"""
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

def upgrade():
    op.create_table("migrated", sa.Column("id", sa.Integer))

def downgrade():
    op.drop_table("migrated")
"""
TESTS = """
import pytest
import shop_main

@pytest.fixture
def metadata():
    return shop_main.Model.metadata

async def test_an_override(client, app, settings):
    assert (type(settings).__name__, settings.name, settings.environment) == ("ShopSettings", "shop", "test")
    app.dependency_overrides[shop_main.visitor] = lambda: "ada"
    assert (await client.post("/products")).json() == "ada"

async def test_is_gone_in_the_next_test(client):
    assert (await client.post("/products")).json() == "somebody"

def test_the_settings_are_as_before():
    assert shop_main.app.state.backstay.settings.environment == "development"
"""


@pytest.mark.databases("sqlite")
class TestProject:
    """The app is found, and left as it was."""

    @pytest.fixture(autouse=True)
    def _shop(self, project: Project) -> None:
        project.write(shop_main=MAIN)
        project.pytester.syspathinsert()

    def test_by_the_table_in_pyproject(self, project: Project) -> None:
        project.pytester.makepyprojecttoml('[tool.pytest]\n[tool.backstay]\napp = "shop_main:app"')
        project.test(TESTS).assert_outcomes(passed=3)

    def test_by_an_option_of_pytest(self, project: Project) -> None:
        project.test(TESTS, "-o", "backstay_app=shop_main:app").assert_outcomes(passed=3)

    def test_its_models_make_the_tables(self, project: Project) -> None:
        main = MAIN.replace("class Model(DeclarativeBase):\n    pass", "from backstay import Model")
        project.write(
            shop_main=main, test_inner="async def test_it(client):\n    await client.post('/products')"
        )
        # In a process of its own: the tables of `Model` are one set for each process.
        result = project.pytester.runpytest_subprocess(
            "-W", "error", "-o", "backstay_app=shop_main:app", "-o", "pythonpath=."
        )
        result.assert_outcomes(passed=1)

    def test_its_migrations_make_the_tables(self, project: Project) -> None:
        versions = project.pytester.path / "migrations" / "versions"
        versions.mkdir(parents=True)
        (versions / "1_first.py").write_text(MIGRATION)
        source = "async def test_it(session): await session.execute(text('SELECT id FROM migrated'))"
        result = project.test(f"from sqlalchemy import text\n{source}", "-o", "backstay_app=shop_main:app")
        result.assert_outcomes(passed=1)

    def test_a_project_without_an_app_says_where_to_name_it(self, project: Project) -> None:
        result = project.test("async def test_it(client): pass")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*No app to test: name it in pyproject.toml*"])

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("shop_main:ap", "There is no app at 'shop_main:ap'"),
            ("shop_main:router", "The app under test was made without backstay"),
        ],
    )
    def test_a_wrong_address_is_named(self, project: Project, address: str, message: str) -> None:
        result = project.test("async def test_it(client): pass", "-o", f"backstay_app={address}")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines([f"*{message}*"])

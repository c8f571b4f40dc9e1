"""Where the marker `idempotent` may stand, what OpenAPI says of it, and the table that it needs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from openapi_spec_validator import validate
from pydantic import SecretStr
from sqlalchemy import MetaData, inspect

from backstay import SessionDep, create_app, idempotent, public, repeatable
from backstay.app import installation as installation_module
from backstay.app.installation import Installation
from backstay.db import Database
from backstay.db.migrations import Migrations
from backstay.db.records import KeyRecords
from backstay.errors import ConfigurationError
from backstay.settings import DatabaseSettings, Settings


@pytest.fixture
def metadata() -> MetaData:
    """Databases start empty."""
    return MetaData()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    database = DatabaseSettings(url=SecretStr(database_url), migrations=tmp_path / "migrations")
    return Settings(environment="production", database=database)


def make_app(settings: Settings, *, is_required: bool = True) -> FastAPI:
    router = APIRouter()

    @router.post("/orders", status_code=201, dependencies=[idempotent(required=is_required)])
    async def create(session: SessionDep) -> int:
        return 1

    @router.get("/orders")
    async def read() -> int:
        return 1

    return create_app(settings, routers=[router], dependencies=[public])


def installation_of(app: FastAPI) -> Installation:
    installation: Installation = app.state.backstay
    return installation


class TestMarker:
    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    def test_a_route_of_another_method_is_an_error_when_the_app_is_made(self, method: str) -> None:
        router = APIRouter()

        @router.api_route("/orders", methods=[method], dependencies=[idempotent()])
        async def act() -> None: ...

        with pytest.raises(ConfigurationError, match=f"{method} /orders is marked as idempotent"):
            create_app(Settings(environment="test"), routers=[router], dependencies=[public])

    def test_a_router_that_marks_all_its_routes_is_looked_at_too(self) -> None:
        router = APIRouter(dependencies=[idempotent()])

        @router.get("/orders", include_in_schema=False)
        async def act() -> None: ...

        with pytest.raises(ConfigurationError, match="GET /orders"):
            create_app(Settings(environment="test"), routers=[router], dependencies=[public])

    def test_before_repeatable_it_is_an_error_when_the_app_is_made(self) -> None:
        router = APIRouter()

        @router.post("/orders", dependencies=[idempotent(), repeatable])
        async def act() -> None: ...

        with pytest.raises(ConfigurationError, match="before repeatable") as caught:
            create_app(Settings(environment="test"), routers=[router], dependencies=[public])
        assert caught.value.hint is not None
        assert "[repeatable, idempotent()]" in caught.value.hint

    async def test_a_route_that_is_added_later_is_looked_at_when_the_app_starts(self) -> None:
        app = create_app(
            Settings(environment="test", database=DatabaseSettings(url=SecretStr("sqlite://"))),
            dependencies=[public],
        )

        @app.get("/orders", dependencies=[idempotent()])
        async def act() -> None: ...

        with pytest.raises(ConfigurationError, match="GET /orders"):
            async with app.router.lifespan_context(app):
                pass


class TestOpenAPI:
    @pytest.mark.parametrize("is_required", [True, False])
    def test_the_header_and_the_answers_are_described(self, is_required: bool) -> None:
        document: Any = make_app(Settings(environment="test"), is_required=is_required).openapi()

        validate(document)
        operation = document["paths"]["/orders"]["post"]
        (header,) = operation["parameters"]
        assert (header["name"], header["in"], header["required"]) == (
            "Idempotency-Key",
            "header",
            is_required,
        )
        assert {"201", "400", "409", "422"} <= set(operation["responses"])
        assert "Idempotency-Replayed" in operation["responses"]["201"]["headers"]
        assert "application/problem+json" in operation["responses"]["409"]["content"]

    def test_a_route_without_the_marker_is_as_before(self) -> None:
        document: Any = make_app(Settings(environment="test")).openapi()

        assert "parameters" not in document["paths"]["/orders"]["get"]


@pytest.mark.databases("sqlite", "postgresql")
class TestTable:
    async def test_an_app_without_marked_routes_needs_none_and_starts(self, settings: Settings) -> None:
        app = create_app(settings)

        assert installation_of(app).library_tables == ()
        async with app.router.lifespan_context(app):
            pass

    async def test_without_its_table_the_service_does_not_start_and_says_what_to_run(
        self, settings: Settings
    ) -> None:
        app = make_app(settings)

        with pytest.raises(ConfigurationError, match="no table backstay_idempotency") as caught:
            async with app.router.lifespan_context(app):
                pass
        assert caught.value.hint == (
            'Write and run its migration: backstay db revision -m "add backstay_idempotency", then '
            "backstay db upgrade"
        )

    async def test_the_migration_that_is_written_makes_the_service_start(
        self, settings: Settings, database: Database
    ) -> None:
        app = make_app(settings)
        migrations = installation_of(app).migrations
        before = await migrations.check(database.engine)

        path = await migrations.revision(database.engine, message="add keys")
        await migrations.upgrade(database.engine)

        assert "table backstay_idempotency: not in the database" in before
        assert 'op.create_table(\n        "backstay_idempotency"' in path.read_text()
        assert await migrations.check(database.engine) == ()
        async with app.router.lifespan_context(app):
            pass

    async def test_it_can_be_taken_back_and_stays_when_the_marker_goes(
        self, settings: Settings, database: Database
    ) -> None:
        migrations = installation_of(make_app(settings)).migrations
        await migrations.revision(database.engine, message="add keys")
        await migrations.upgrade(database.engine)
        without = Migrations(MetaData(), settings.database.migrations)

        assert await without.check(database.engine) == ()

        await migrations.downgrade(database.engine, revision="base")
        async with database.engine.connect() as connection:
            names = await connection.run_sync(lambda bound: inspect(bound).get_table_names())
        assert "backstay_idempotency" not in names

    async def test_the_models_tables_are_compared_beside_it(
        self, settings: Settings, database: Database
    ) -> None:
        """Each set of tables on its own would take the other one for undeclared."""
        migrations = installation_of(make_app(settings)).migrations
        await migrations.revision(database.engine, message="add keys")
        await migrations.upgrade(database.engine)
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE backstay_idempotency DROP COLUMN body")

        assert await migrations.check(database.engine) == (
            "column backstay_idempotency.body: not in the database",
        )


async def test_only_a_service_with_marked_routes_sweeps(settings: Settings, database: Database) -> None:
    swept = []
    for app in (create_app(settings), make_app(settings)):
        installation = installation_of(app)
        if installation.library_tables:
            await installation.migrations.revision(database.engine, message="add keys")
            await installation.migrations.upgrade(database.engine)
        async with app.router.lifespan_context(app):
            await asyncio.sleep(0)  # tasks begin
            swept.append([task.get_name() for task in asyncio.all_tasks()].count("backstay.keys"))

    assert swept == [0, 1]


def test_the_route_of_the_guide_takes_a_key() -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/idempotency.md").read_text()
    source = guide.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102  our own text
    app = create_app(Settings(environment="test"), routers=[names["router"]], dependencies=[public])

    assert installation_of(app).idempotent_routes == [("POST", "/orders")]


async def test_the_sweeper_goes_on_after_an_error_and_while_batches_are_full(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(settings)
    await installation_of(app).migrations.revision(database.engine, message="add keys")
    await installation_of(app).migrations.upgrade(database.engine)
    outcomes: list[Exception | bool] = [OSError("the database is away"), True, False]
    is_done = asyncio.Event()

    async def sweep(records: KeyRecords) -> bool:
        outcome = outcomes.pop(0)
        if not outcomes:
            is_done.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(KeyRecords, "sweep", sweep)
    monkeypatch.setattr(installation_module, "_EXPIRE_SECONDS", 0.001)
    monkeypatch.setattr(installation_module, "_NEXT_BATCH_SECONDS", 0.001)
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(is_done.wait(), timeout=30)
        monkeypatch.setattr(installation_module, "_EXPIRE_SECONDS", 60.0)

    assert caplog.text.count("Old idempotency keys could not be deleted.") == 1

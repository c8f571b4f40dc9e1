"""Fixtures for databases: every test gets one of its own, and what it commits is really committed.

    async def test_two_sessions_see_each_other(database: Database) -> None: ...

A test runs on the kinds of database that `--database` names (`sqlite` unless told otherwise). A test marked
with `@pytest.mark.databases("sqlite", "postgresql")` runs on both even without the option; where no
PostgreSQL is found, that half is skipped with the reason.

A server is looked for at the address in BACKSTAY_TEST_POSTGRES_URL, then at 127.0.0.1:5432. Where there is
none, and where the binaries of this machine are of the same version, one is started from them, for this run
alone: without fsync it makes databases several times faster. With BACKSTAY_REQUIRE_SERVERS=1, as in CI, its
absence is a failure, and so is a run in which no test used it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, NoReturn, cast, get_args
from uuid import uuid4

import pytest
from pydantic import SecretStr

from backstay.db import AsyncSession, Database
from backstay.db.model import Model
from backstay.settings import Settings
from backstay.testing._databases import DatabaseKind, DatabaseMaker, ServerMissingError
from backstay.testing._project import project_settings, project_tables
from backstay.testing._template import CreatedTables, Fill, MigratedTables, Tables, has_migrations

if TYPE_CHECKING:
    from backstay.app.runtime import Runtime

__all__: list[str] = []

_KINDS = get_args(DatabaseKind)
_CHOICES = (*_KINDS, "both")
_RAN_ON = "backstay.database"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--database`."""
    parser.getgroup("backstay").addoption(
        "--database",
        choices=_CHOICES,
        default=os.environ.get("BACKSTAY_TEST_DATABASE") or None,
        help="Kinds of database to run the tests on; sqlite unless a test is marked for others. "
        "Also BACKSTAY_TEST_DATABASE.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and watch over CI's promise."""
    if config.getoption("database") not in (None, *_CHOICES):  # the parser does not check defaults
        raise pytest.UsageError(f"BACKSTAY_TEST_DATABASE is one of {', '.join(_CHOICES)}.")
    if _servers_are_required():
        config.pluginmanager.register(_ServerUse(), "backstay-server-use")
    config.addinivalue_line(
        "markers", "databases(*kinds): run the test on these kinds of database: 'sqlite', 'postgresql'."
    )


def _servers_are_required() -> bool:
    return os.environ.get("BACKSTAY_REQUIRE_SERVERS") == "1"


class _ServerUse:
    """Fails a run that should have used PostgreSQL and did not; reports tell, also from xdist's workers."""

    def __init__(self) -> None:
        self._ran = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._ran |= (
            report.when == "call" and not report.skipped and (_RAN_ON, "postgresql") in report.user_properties
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and self._has_failed(session.config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        if self._has_failed(config):
            terminalreporter.section("PostgreSQL", red=True)
            terminalreporter.line("BACKSTAY_REQUIRE_SERVERS is set, and no test ran on PostgreSQL.")

    def _has_failed(self, config: pytest.Config) -> bool:
        is_worker = hasattr(config, "workerinput")
        return not (self._ran or is_worker or config.option.collectonly)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each kind of database that it is meant for."""
    if "database_kind" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("databases")
    wanted = _wanted(metafunc.config)
    kinds = marker.args if marker else wanted or _KINDS[:1]
    if marker is None and len(kinds) == 1:
        return
    _refuse_unknown(kinds, metafunc.definition)
    skipped = pytest.mark.skip(reason=f"--database {'/'.join(wanted)}")
    metafunc.parametrize(
        "database_kind",
        [pytest.param(kind, marks=skipped if wanted and kind not in wanted else ()) for kind in kinds],
        indirect=True,
    )


def _wanted(config: pytest.Config) -> tuple[DatabaseKind, ...]:
    """Return the kinds that the option names; none when it is not given."""
    option = config.getoption("database")
    if option is None:
        return ()
    return _KINDS if option == "both" else (option,)


def _refuse_unknown(kinds: tuple[str, ...], definition: pytest.Item) -> None:
    for kind in kinds:
        if kind not in _KINDS:
            known = " and ".join(map(repr, _KINDS))
            pytest.fail(
                f"{definition.nodeid}: the marker `databases` takes {known}, not {kind!r}.", pytrace=False
            )


@pytest.fixture(scope="session")
def _database_maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseMaker]:
    with DatabaseMaker(tmp_path_factory.mktemp("databases")) as maker:
        yield maker


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> DatabaseKind:
    """Return the kind of this test's database: "sqlite" or "postgresql"."""
    if hasattr(request, "param"):
        return cast("DatabaseKind", request.param)
    return (_wanted(request.config) or _KINDS)[0]


@pytest.fixture
def metadata() -> Tables | None:
    """Return the tables to create; override it in a module or a conftest.

    None stands for the project's migrations, or for the tables of `Model` in a project without any. Those of
    the library that the project's app uses are created beside them.
    """
    return None


@pytest.fixture(scope="session")
def _project_settings(request: pytest.FixtureRequest) -> Settings:
    return project_settings(request.config)


@pytest.fixture
def database_template(
    request: pytest.FixtureRequest, metadata: Tables | None, _project_settings: Settings
) -> Fill:
    """Return the async function that prepares an empty database; override it to add rows for every test.

    It is called once in a session for each kind of database, so return the same function, or one that
    compares equal, for all tests that may share what it prepares.
    """
    directory = request.config.rootpath / _project_settings.database.migrations
    if metadata is None and has_migrations(directory):
        return MigratedTables(directory)
    declared = Model.metadata if metadata is None else metadata
    return CreatedTables(declared, project_tables(request.config))


@pytest.fixture
def database_url(
    request: pytest.FixtureRequest,
    _database_maker: DatabaseMaker,
    database_kind: DatabaseKind,
    database_template: Fill,
) -> Iterator[str]:
    """Return the address of a database of this test's own, with its tables and without rows."""
    try:
        url = _database_maker.create(database_kind, database_template)
    except ServerMissingError as error:
        _give_up(error)
    request.node.user_properties.append((_RAN_ON, database_kind))
    yield url
    _database_maker.remove(database_kind, url)


def _give_up(error: ServerMissingError) -> NoReturn:
    if error.is_configured or _servers_are_required():
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


@pytest.fixture
def settings(_project_settings: Settings, database_url: str) -> Settings:
    """Return the project's settings, for the environment "test", this test's database and keys of its own.

    Override it to change more: `return settings.model_copy(update={...})`.
    """
    database = _project_settings.database.model_copy(update={"url": SecretStr(database_url)})
    # Nothing that another test has cached or counted is found, also in a Redis that they share.
    prefix = f"{_project_settings.cache.prefix or 'test'}-{uuid4().hex}"
    cache = _project_settings.cache.model_copy(update={"prefix": prefix})
    return _project_settings.model_copy(update={"database": database, "cache": cache})


@pytest.fixture
async def _database_without_app(settings: Settings, anyio_backend: object) -> AsyncIterator[Database]:
    database = Database(settings.database)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def database(request: pytest.FixtureRequest, settings: Settings) -> Database:
    """Return the test's database: the app's own object when the test uses the app, else one of the test's.

    Either way it is at `database_url`, and closed after the test.
    """
    if {"app", "runtime"}.isdisjoint(request.fixturenames):
        return cast("Database", request.getfixturevalue("_database_without_app"))
    return cast("Runtime", request.getfixturevalue("runtime")).database


@pytest.fixture
async def session(database: Database, anyio_backend: object) -> AsyncIterator[AsyncSession]:
    """Return a session to arrange rows with, and to call the project's functions with.

    Nobody commits for you: `await session.commit()` shows your rows to the app, and what is not committed is
    rolled back after the test. A row that you hold keeps its old values when the app changes it: `await
    session.refresh(row)`, or look with a `database.reading()`.
    """
    session = database.session()
    try:
        yield session
    finally:
        await session.close()

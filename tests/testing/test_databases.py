"""Every test has a database of its own, on each kind of database that it is meant for."""

import asyncio
import re
import time
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, make_url, select

from backstay.db import AsyncSession, Database
from backstay.settings import DatabaseSettings, Settings
from backstay.testing._databases import DatabaseMaker

from .conftest import Project

tables = MetaData()
notes = Table("notes", tables, Column("id", Integer, primary_key=True))

both = pytest.mark.databases("sqlite", "postgresql")


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


async def count(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(notes)) or 0


@both
@pytest.mark.parametrize("attempt", [1, 2])
async def test_each_test_starts_without_the_rows_of_another(database: Database, attempt: int) -> None:
    async with database.transaction() as session:
        await session.execute(insert(notes))
    assert await count(database) == 1


@both
async def test_the_settings_name_the_test_and_its_database(
    settings: Settings, database: Database, database_kind: str
) -> None:
    assert settings.environment == "test"
    assert database.url.get_backend_name() == database_kind
    assert make_url(settings.database.url.get_secret_value()).database == database.url.database


@both
async def test_a_session_shows_its_rows_after_its_commit(session: AsyncSession, database: Database) -> None:
    await session.execute(insert(notes))
    await session.commit()
    assert await count(database) == 1


class TestUncommitted:
    """Two tests on one template: what the first leaves behind would be in the second."""

    async def test_rows_without_a_commit_are_there_in_the_session(self, session: AsyncSession) -> None:
        await session.execute(insert(notes))
        assert await session.scalar(select(func.count()).select_from(notes)) == 1

    async def test_and_rolled_back_after_the_test(self, database: Database) -> None:
        assert await count(database) == 0


async def test_the_runtime_brings_the_database(database: Database, runtime: object) -> None:
    assert getattr(runtime, "database") is database  # noqa: B009


ONE_TABLE = """
import pytest
from pydantic import SecretStr
from sqlalchemy import Column, Integer, MetaData, Table, insert
tables = MetaData()
notes = Table("notes", tables, Column("id", Integer, primary_key=True))

@pytest.fixture
def metadata():
    return tables

async def test_it(database, database_url):
    async with database.transaction() as session:
        await session.execute(insert(notes))
    print("url", database_url)
"""
PARITY = ONE_TABLE.replace("async def", '@pytest.mark.databases("sqlite", "postgresql")\nasync def')


class TestChoice:
    """Which databases a test runs on."""

    def test_sqlite_unless_told_otherwise(self, project: Project) -> None:
        result = project.test(ONE_TABLE, "-s")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["*url sqlite:///*"])

    @pytest.mark.databases("postgresql")
    def test_the_option_chooses(self, project: Project, database_url: str) -> None:
        result = project.test(ONE_TABLE, "-s", "--database", "postgresql")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["*url postgresql://*"])

    @pytest.mark.databases("postgresql")
    def test_so_does_the_environment(
        self, project: Project, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BACKSTAY_TEST_DATABASE", "both")
        result = project.test(ONE_TABLE)
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["*test_it?sqlite? PASSED*", "*test_it?postgresql? PASSED*"])

    @pytest.mark.databases("postgresql")
    def test_a_mark_asks_for_both_without_the_option(self, project: Project, database_url: str) -> None:
        project.test(PARITY).assert_outcomes(passed=2)

    def test_the_option_leaves_out_what_a_mark_asks_for(self, project: Project) -> None:
        result = project.test(PARITY, "--database", "sqlite")
        result.assert_outcomes(passed=1, skipped=1)

    def test_a_word_that_is_no_database_stops_the_run(self, project: Project) -> None:
        result = project.test(ONE_TABLE.replace("async def", '@pytest.mark.databases("mysql")\nasync def'))
        result.stdout.fnmatch_lines(["*the marker `databases` takes*not 'mysql'*"])
        assert result.ret != 0

    def test_a_word_in_the_environment_that_is_none_either(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BACKSTAY_TEST_DATABASE", "mysql")
        result = project.test(ONE_TABLE)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*BACKSTAY_TEST_DATABASE is one of sqlite, postgresql, both.*"])


@pytest.mark.usefixtures("no_server")
class TestWithoutServer:
    """A machine without PostgreSQL."""

    def test_the_other_half_is_skipped_and_says_why(self, project: Project) -> None:
        result = project.test(PARITY)
        result.assert_outcomes(passed=1, skipped=1)
        result.stdout.fnmatch_lines(["*no PostgreSQL server: nothing listens on*; no PostgreSQL binaries*"])

    def test_where_servers_are_required_it_fails(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BACKSTAY_REQUIRE_SERVERS", "1")
        result = project.test(PARITY)
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(["*no PostgreSQL server: nothing listens on*"])

    def test_an_address_that_does_not_answer_is_never_taken_for_absence(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int
    ) -> None:
        monkeypatch.setenv("BACKSTAY_TEST_POSTGRES_URL", f"postgresql://nobody@127.0.0.1:{free_tcp_port}/x")
        result = project.test(PARITY)
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(["*no PostgreSQL server: BACKSTAY_TEST_POSTGRES_URL:*cannot be reached*"])


@pytest.mark.databases("postgresql")
def test_a_user_who_may_not_create_databases_is_named(
    project: Project, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"backstay_test_weak_{uuid4().hex}"
    ask_server(database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'weak'")
    try:
        server = urlsplit(database_url)
        address = server._replace(netloc=f"{role}:weak@{server.netloc.rpartition('@')[2]}").geturl()
        monkeypatch.setenv("BACKSTAY_TEST_POSTGRES_URL", address)
        result = project.test(ONE_TABLE, "--database", "postgresql")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*BACKSTAY_TEST_POSTGRES_URL: this user may not create databases*"])
    finally:
        ask_server(database_url, f"DROP ROLE {role}")


class TestRequiredServers:
    """What CI relies on: green means that PostgreSQL was really used."""

    @pytest.fixture(autouse=True)
    def _required(
        self, request: pytest.FixtureRequest, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if "database_url" in request.fixturenames:
            request.getfixturevalue("database_url")  # skips where there is no server, as long as it may
        monkeypatch.setenv("BACKSTAY_REQUIRE_SERVERS", "1")

    def test_a_run_that_never_used_postgresql_fails(self, project: Project) -> None:
        result = project.test(ONE_TABLE)
        result.assert_outcomes(passed=1)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["BACKSTAY_REQUIRE_SERVERS is set, and no test ran on PostgreSQL."])

    @pytest.mark.databases("postgresql")
    def test_one_that_did_passes(self, project: Project, database_url: str) -> None:
        result = project.test(PARITY)
        result.assert_outcomes(passed=2)
        assert result.ret == pytest.ExitCode.OK

    def test_collecting_is_no_run(self, project: Project) -> None:
        assert project.test(ONE_TABLE, "--collect-only").ret == pytest.ExitCode.OK


class TestTidiness:
    """Nothing stays on a server that may be somebody's own."""

    pytestmark = pytest.mark.databases("postgresql")

    @pytest.fixture(autouse=True)
    def _same_server(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKSTAY_TEST_POSTGRES_URL", database_url)

    def test_everything_is_dropped_at_the_end(self, project: Project, database_url: str) -> None:
        result = project.test(ONE_TABLE, "-s", "--database", "postgresql")

        run = re.search(r"/(backstay_test_\d+_\w+)_\d+", result.stdout.str())
        assert run
        assert not [name for name in ask_server(database_url) if name.startswith(run[1])]

    def test_what_a_dead_run_left_is_swept_after_a_day(self, project: Project, database_url: str) -> None:
        day_ago = int(time.time()) - 24 * 60 * 60
        old, young = f"backstay_test_{day_ago - 60}_dead_1", f"backstay_test_{day_ago + 600}_alive_1"
        foreign = "backstay_test_of_somebody_else"
        ask_server(database_url, *(f"CREATE DATABASE {name}" for name in (old, young, foreign)))
        try:
            project.test(ONE_TABLE, "--database", "postgresql").assert_outcomes(passed=1)
            assert {old, young, foreign} & ask_server(database_url) == {young, foreign}
        finally:
            ask_server(database_url, *(f"DROP DATABASE IF EXISTS {name}" for name in (old, young, foreign)))


def ask_server(url: str, *statements: str) -> set[str]:
    """Run statements on the server, and return the names of its databases."""

    async def ask() -> set[str]:
        database = Database(DatabaseSettings(url=SecretStr(url)))
        try:
            engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
            async with engine.connect() as connection:
                for statement in statements:
                    await connection.exec_driver_sql(statement)
                return set((await connection.exec_driver_sql("SELECT datname FROM pg_database")).scalars())
        finally:
            await database.close()

    return asyncio.run(ask())


def test_a_database_that_cannot_be_removed_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def do_nothing(database: Database) -> None: ...

    with DatabaseMaker(tmp_path) as maker:
        path = Path(maker.create("sqlite", do_nothing).removeprefix("sqlite:///"))
        path.unlink()
        path.mkdir()
        maker.remove("sqlite", f"sqlite:///{path}")
    assert "A test's database could not be removed" in caplog.text


def test_files_are_removed_with_their_test(project: Project) -> None:
    result = project.test(ONE_TABLE, "-s", f"--basetemp={project.pytester.path / 'temp'}")
    result.assert_outcomes(passed=1)
    files = [path.name for path in Path(project.pytester.path / "temp").rglob("*.db*")]
    assert files == ["1.db"]  # the template

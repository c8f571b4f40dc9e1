from pathlib import Path
from typing import Any

import pytest

_MODEL = """
from backstay import Model
from sqlalchemy.orm import Mapped, mapped_column


class Thing(Model):
    __tablename__ = "things"

    thing_id: Mapped[int] = mapped_column(primary_key=True)
"""

on_both_databases = pytest.mark.databases("sqlite", "postgresql")


@pytest.fixture
def migrated_project(project: Any, monkeypatch: pytest.MonkeyPatch, database_url: str) -> Any:
    """A service with two migrations that have not run, on a database of the test's own."""
    monkeypatch.setenv("TINY_DATABASE__URL", database_url)
    project.add_migration("first", after=None, statement="CREATE TABLE first (a integer)")
    project.add_migration("second", after="first", statement="CREATE TABLE second (a integer)")
    return project


@on_both_databases
def test_a_revision_is_written_run_and_taken_back(
    project: Any, backstay_process: Any, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", database_url)
    (project.main.parent / "models.py").write_text(_MODEL)
    project.main.write_text(f"import {project.package}.models\n{project.main.read_text()}")

    written = backstay_process("db", "revision", "-m", "first things")
    path = Path(written.out.removesuffix("\n"))
    upgraded = backstay_process("db", "upgrade")
    again = backstay_process("db", "revision", "-m", "more things")
    downgraded = backstay_process("db", "downgrade", "base")

    assert (written.code, path.parent) == (0, project.folder / "migrations" / "versions")
    assert "things" in path.read_text()
    assert written.err.endswith("Read it, then run: backstay db upgrade\n")
    assert (upgraded.code, upgraded.out) == (0, "")
    assert upgraded.err.endswith("first things: ran\n")
    assert (again.code, again.out) == (1, "")
    assert "error: The models and the database agree: there is nothing to migrate.\nhint: " in again.err
    assert downgraded.err.endswith("first things: was taken back\n")


@on_both_databases
def test_where_the_database_is_and_what_it_lacks(migrated_project: Any, backstay: Any) -> None:
    before = backstay("db", "current")
    first = backstay("db", "upgrade", "+1")
    between = backstay("db", "current")
    backstay("db", "upgrade")
    after = backstay("db", "current")
    again = backstay("db", "upgrade")

    assert (before.out, before.err) == (
        "",
        "2 migrations are not yet run, up to second. Run: backstay db upgrade\n",
    )
    assert first.err.endswith("first  Step first: ran\n")
    assert (between.out, between.err) == (
        "first  Step first\n",
        "1 migration is not yet run, up to second. Run: backstay db upgrade\n",
    )
    assert (after.code, after.out, after.err) == (0, "second  Step second\n", "No migration is pending.\n")
    assert (again.code, again.err) == (0, "There is nothing to do: the database is there already.\n")


@on_both_databases
def test_a_number_of_steps_is_no_option(migrated_project: Any, backstay: Any) -> None:
    backstay("db", "upgrade")

    outcome = backstay("db", "downgrade", "-2")

    assert outcome.code == 0
    assert outcome.err.endswith("second  Step second: was taken back\nfirst  Step first: was taken back\n")


def test_an_empty_revision_needs_no_difference(migrated_project: Any, backstay: Any) -> None:
    backstay("db", "upgrade")

    outcome = backstay("db", "revision", "--empty", "-m", "by hand")

    assert outcome.code == 0
    assert Path(outcome.out.removesuffix("\n")).is_file()


def test_the_history_asks_no_database(
    migrated_project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", "postgresql://127.0.0.1:1/tiny")

    outcome = backstay("db", "history")

    assert (outcome.code, outcome.out, outcome.err) == (0, "second  Step second\nfirst  Step first\n", "")


def test_an_empty_history_says_how_to_begin(project: Any, backstay: Any) -> None:
    outcome = backstay("db", "history")

    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == (
        'There are no migrations in migrations. Write one: backstay db revision -m "first tables"\n'
    )


@pytest.mark.parametrize("command", ["upgrade", "downgrade"])
def test_an_unknown_revision(migrated_project: Any, backstay: Any, command: str) -> None:
    outcome = backstay("db", command, "secnd")

    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert "'secnd'" in outcome.err
    assert "hint: " in outcome.err


def test_a_message_without_a_letter(project: Any, backstay: Any) -> None:
    outcome = backstay("db", "revision", "-m", "...")

    assert outcome.code == 1
    assert outcome.err.startswith("error: A migration needs a message")


def test_a_revision_behind_the_files_says_to_upgrade(migrated_project: Any, backstay: Any) -> None:
    outcome = backstay("db", "revision", "-m", "too early")

    assert outcome.code == 1
    assert outcome.err.startswith("error: The database lacks 2 migrations")
    assert "backstay db upgrade" in outcome.err


@on_both_databases
def test_a_migration_that_fails_is_told_with_its_file(migrated_project: Any, backstay: Any) -> None:
    migrated_project.add_migration("third", after="second", statement="SELECT nothing FROM nowhere")

    outcome = backstay("db", "upgrade")

    assert outcome.code == 1
    assert "third.py, line 9, failed: " in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "arguments", [("current",), ("upgrade",), ("downgrade", "base"), ("revision", "-m", "x")]
)
def test_a_server_that_does_not_answer_is_one_message(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", "postgresql://shop:hunter2@127.0.0.1:1/shop")

    outcome = backstay("db", *arguments)

    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        "error: The database postgresql://shop:[redacted]@127.0.0.1:1/shop cannot be reached.\n"
        "hint: Start it, correct TINY_DATABASE__URL, or use sqlite:///service.db, which needs no server.\n"
    )


@pytest.mark.databases("postgresql")
def test_a_database_that_the_server_does_not_have(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", database_url.rpartition("/")[0] + "/no_such_database")

    outcome = backstay("db", "current")

    assert outcome.code == 1
    assert "/no_such_database does not exist on its server.\nhint: Create it with `createdb`" in outcome.err


def test_a_file_in_a_missing_folder(project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", "sqlite:///no/such/folder/x.db")

    outcome = backstay("db", "current")

    assert outcome.code == 1
    assert outcome.err == (
        "error: The database sqlite:///no/such/folder/x.db cannot be opened.\n"
        "hint: Create its folder and let this user write there, or name another file in TINY_DATABASE__URL.\n"
    )


def test_a_file_that_holds_something_else(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", "sqlite:///notes.txt")
    (project.folder / "notes.txt").write_text("these are notes, not rows\n" * 100)

    outcome = backstay("db", "current")

    assert outcome.code == 1
    assert outcome.err == (
        "error: The database sqlite:///notes.txt is not a SQLite file.\n"
        "hint: Name another file in TINY_DATABASE__URL.\n"
    )


def test_code_of_a_migration_that_raises_is_told_with_its_place(project: Any, backstay: Any) -> None:
    project.add_migration("first", after=None, statement="")
    path = project.folder / "migrations" / "versions" / "first.py"
    path.write_text(path.read_text().replace("op.execute('')", "op.nothing()"))

    outcome = backstay("db", "upgrade")

    assert outcome.code == 1
    assert "first.py, line 9" in outcome.err
    assert "Traceback" not in outcome.err

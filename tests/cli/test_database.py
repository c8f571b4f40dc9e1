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
def test_a_route_that_takes_a_key_brings_the_librarys_table(
    project: Any, backstay_process: Any, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", database_url)
    marked = 'router.post("/things", dependencies=[idempotent()])(list_things)'
    source = project.main.read_text().replace("create_app, public", "create_app, idempotent, public")
    project.main.write_text(source.replace("app = create_app", f"{marked}\napp = create_app"))

    missing = backstay_process("db", "check")
    written = backstay_process("db", "revision", "-m", "add keys")
    backstay_process("db", "upgrade")
    agreeing = backstay_process("db", "check")

    assert (missing.code, missing.out.splitlines()[0]) == (
        1,
        "table backstay_idempotency: not in the database",
    )
    text = Path(written.out.removesuffix("\n")).read_text()
    assert '"backstay_idempotency"' in text
    assert "info" not in text
    assert (agreeing.code, agreeing.out) == (0, "")


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


def _write_branches(project: Any) -> None:
    project.add_migration("root", after=None, statement="CREATE TABLE root (a integer)")
    project.add_migration("left", after="root", statement="CREATE TABLE left_side (a integer)")
    project.add_migration("right", after="root", statement="CREATE TABLE right_side (a integer)")


@on_both_databases
def test_two_heads_are_refused_and_joined_by_the_command_that_is_named(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", database_url)
    _write_branches(project)

    refused = backstay("db", "upgrade")
    merged = backstay("db", "merge", "-m", "join sides")
    upgraded = backstay("db", "upgrade")

    assert refused.code == 1
    assert refused.err.startswith(
        "error: 2 migrations claim to be the last: left.py, right.py.\nhint: Join them: backstay db merge."
    )
    path = Path(merged.out.removesuffix("\n"))
    assert (merged.code, merged.err) == (0, "Run: backstay db upgrade\n")
    assert "join_sides" in path.name
    assert upgraded.code == 0
    assert upgraded.err.endswith("join sides: ran\n")


def test_a_branch_is_written_with_its_label_and_shown_with_it(project: Any, backstay: Any) -> None:
    _write_branches(project)

    written = backstay(
        "db", "revision", "-m", "more", "--empty", "--head", "left", "--branch-label", "port",
        "--depends-on", "right",
    )  # fmt: skip
    history = backstay("db", "history")
    upgraded = backstay("db", "upgrade", "port@head")

    assert written.code == 0
    assert history.out.splitlines()[0].endswith("  more  (port)")
    assert upgraded.code == 0
    assert upgraded.err.endswith("more  (port): ran\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("revision", "-m", "x", "--empty"), "2 migrations claim to be the last: left.py, right.py."),
        (("revision", "-m", "x", "--empty", "--head", "rihgt"), "No migration has the revision 'rihgt'."),
        (("revision", "-m", "x", "--empty", "--head", "root"), "The migration 'root' is not a head"),
        (("revision", "-m", "x", "--empty", "--head", "left", "--branch-label", "a b"), "'a b' cannot be"),
        (("revision", "-m", "x", "--empty", "--head", "left", "--depends-on", "keel"), "No migration has"),
        (("merge", "left"), "There is nothing to merge"),
        (("merge", "left", "left@head", "base"), "There is nothing to merge"),
        (("merge", "left", "rihgt"), "No migration has the revision 'rihgt'."),
        (("merge", "left", "root"), "The migration 'root' is not a head"),
        (("merge", "-m", "..."), "A migration needs a message"),
        (("upgrade", "keel@head"), "No migration has the revision 'keel'."),
        (("upgrade", ""), "No migration has the revision ''."),
        (("upgrade", "left@+5"), "There are not as many migrations as '+5' would run."),
        (("downgrade", "left"), "The target 'left' is not behind where the database is."),
        (("downgrade", "-9"), "The database is fewer than 9 migrations above its beginning."),
        (("downgrade", "keel@-1"), "No migration has the revision 'keel'."),
    ],
)
def test_mistakes_with_branches_are_told_with_a_way_out(
    project: Any, backstay: Any, arguments: tuple[str, ...], message: str
) -> None:
    _write_branches(project)
    before = set((project.folder / "migrations" / "versions").iterdir())

    outcome = backstay("db", *arguments)

    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"error: {message}")
    assert "\nhint: " in outcome.err
    assert set((project.folder / "migrations" / "versions").glob("*.py")) == {
        path for path in before if path.suffix == ".py"
    }


@on_both_databases
def test_a_table_that_no_model_declares_is_refused_kept_or_dropped(
    migrated_project: Any, backstay: Any, backstay_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backstay("db", "upgrade")

    refused = backstay("db", "revision", "-m", "more")
    unknown = backstay("db", "revision", "-m", "drop", "--drop", "frist")
    dropped = backstay("db", "revision", "-m", "drop", "--drop", "first", "--drop", "second")
    backstay("db", "upgrade")
    backstay("db", "downgrade", "-1")
    Path(dropped.out.removesuffix("\n")).unlink()
    monkeypatch.setenv("TINY_MIGRATIONS__FOREIGN_TABLES", "fir*,second")
    kept = backstay_process("db", "revision", "-m", "more")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "error: No imported model declares first, second, so the migration would drop them.\n"
        "hint: Import the model; or drop it with --drop first; or, if it is somebody else's, name it in the "
        "setting migrations.foreign_tables.\n"
    )
    assert dropped.code == 0
    assert unknown.err.startswith(
        "error: The table 'frist' cannot be dropped: the database has no such table."
    )
    assert kept.code == 1
    assert kept.err.startswith("error: The models and the database agree: there is nothing to migrate.\n")


@on_both_databases
def test_the_check_lists_what_differs_and_gives_the_exit_code(
    migrated_project: Any, backstay: Any, backstay_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = backstay("db", "check")
    backstay("db", "upgrade")
    different = backstay("db", "check")
    monkeypatch.setenv("TINY_MIGRATIONS__FOREIGN_TABLES", "first,second")
    clean = backstay_process("db", "check")

    assert (pending.code, pending.out) == (
        1,
        "migration first.py: pending\nmigration second.py: pending\n",
    )
    assert pending.err.endswith("hint: Run the migrations, then check again: backstay db upgrade\n")
    assert (different.code, different.out) == (
        1,
        "table first: only in the database, no model declares it\n"
        "table second: only in the database, no model declares it\n",
    )
    assert different.err.endswith('hint: Write the migration: backstay db revision -m "..."\n')
    assert (clean.code, clean.out) == (0, "")
    assert clean.err.endswith("Models, migrations and database agree.\n")


def test_the_check_tells_two_heads(project: Any, backstay: Any) -> None:
    _write_branches(project)

    outcome = backstay("db", "check")

    assert outcome.code == 1
    assert outcome.out.startswith("head left.py: one of 2\nhead right.py: one of 2\n")
    assert outcome.err.endswith("hint: Join the heads: backstay db merge\n")

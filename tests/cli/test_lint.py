"""`backstay db lint`; what it finds is tested in tests/db/migrations/lint/."""

import json
from pathlib import Path
from typing import Any

import pytest

FINDING = (
    "migrations/versions/second.py:9: drop-table: DROP TABLE takes ACCESS EXCLUSIVE on old, and the code "
    "that runs meanwhile still uses it.\n"
    "hint: Deploy code that does without it first, then drop it with "
    "`# allow[drop-table]: unused since ...`.\n"
)


@pytest.fixture
def linted_project(project: Any) -> Any:
    """A service with a clean migration and one that drops a table."""
    project.add_migration("first", after=None, statement="CREATE TABLE first (a integer)")
    project.add_migration("second", after="first", statement="DROP TABLE old")
    return project


def test_findings_are_data_and_the_sum_is_talk(linted_project: Any, backstay: Any) -> None:
    outcome = backstay("db", "lint")

    assert (outcome.code, outcome.out, outcome.err) == (1, FINDING, "1 finding in 1 of 2 migrations.\n")


def test_no_finding_is_the_exit_code_0(linted_project: Any, backstay: Any) -> None:
    outcome = backstay("db", "lint", "first")

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "1 migration looked at: nothing found.\n")


def test_no_migration_is_no_finding(project: Any, backstay: Any) -> None:
    outcome = backstay("db", "lint")

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "0 migrations looked at: nothing found.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("second",),
        ("sec",),
        ("--since", "first"),
        ("migrations/versions/second.py",),
        ("migrations/versions/first.py", "second", "--since", "fir"),
    ],
)
def test_some_of_them(linted_project: Any, backstay: Any, arguments: tuple[str, ...]) -> None:
    outcome = backstay("db", "lint", *arguments)

    assert (outcome.code, outcome.out, outcome.err) == (1, FINDING, "1 finding in 1 of 1 migration.\n")


def test_a_path_is_meant_from_where_the_command_is_called(
    linted_project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(linted_project.folder / "migrations" / "versions")

    assert backstay("db", "lint", "second.py").out == FINDING


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("secnd",), "No migration has the revision 'secnd'. Did you mean 'second'?"),
        (("--since", "thrid"), "No migration has the revision 'thrid'. Did you mean 'third'?"),
        (("no_such.py",), "There is no migration no_such.py in tiny."),
        (("t",), "2 migrations begin with 't': third, thirteenth."),
    ],
)
def test_what_is_no_migration_is_misuse(
    linted_project: Any, backstay: Any, arguments: tuple[str, ...], error: str
) -> None:
    linted_project.add_migration("third", after="second", statement="SELECT 1")
    linted_project.add_migration("thirteenth", after="third", statement="SELECT 1")

    outcome = backstay("db", "lint", *arguments)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"error: {error}\nhint: `backstay db history` lists them.\n"


def test_json_for_machines(linted_project: Any, backstay: Any) -> None:
    outcome = backstay("db", "lint", "--json")

    message, hint = FINDING.removesuffix("\n").split(": ", 2)[2].split("\nhint: ")
    assert (outcome.code, outcome.err) == (1, "")
    assert json.loads(outcome.out) == {
        "findings": [
            {
                "path": "migrations/versions/second.py",
                "line": 9,
                "rule": "drop-table",
                "message": message,
                "hint": hint,
                "tables": ["old"],
                "lock": "ACCESS EXCLUSIVE",
                "blocks": "reads and writes",
            }
        ],
        "linted": ["first", "second"],
        "used_squawk": True,
    }


def test_without_squawk_it_is_said_what_is_lost(
    linted_project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backstay.db.migrations.lint._lint.find_squawk", lambda: None)

    outcome = backstay("db", "lint")

    assert (outcome.code, outcome.out) == (1, FINDING)
    assert outcome.err == (
        "squawk is not installed, so only backstay's own rules were checked.\n"
        "hint: pip install 'backstay[lint]'\n"
        "1 finding in 1 of 2 migrations.\n"
    )


def test_no_database_is_asked(linted_project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", "postgresql://127.0.0.1:1/tiny")

    assert backstay("db", "lint").out == FINDING


def test_what_a_migration_prints_is_talk(linted_project: Any, backstay: Any) -> None:
    path = Path("migrations/versions/first.py")
    path.write_text(path.read_text().replace("from alembic", "print('hello')\nfrom alembic"))

    outcome = backstay("db", "lint", "--json")

    assert json.loads(outcome.out)["linted"] == ["first", "second"]
    assert outcome.err == "hello\n"

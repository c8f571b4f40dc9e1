"""squawk beside our own rules, and which migrations are looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from backstay.db.migrations import (
    MigrationError,
    UnknownTargetError,
)
from backstay.db.migrations.lint import LintReport

from .conftest import Files

# -- squawk


def test_squawk_speaks_where_our_rules_have_nothing_to_say(files: Files) -> None:
    assert files.lint(
        """
        op.execute("SELECT\\n1")

        op.execute("DROP VIEW sales")
        op.execute("DROP VIEW totals")  # allow[ban-drop-view]: nobody has read it since 1.4
        """
    ) == ["3: ban-drop-view"]


def test_a_mistake_of_syntax_is_told_once(files: Files) -> None:
    assert files.lint("pass\nop.execute('SELEC 1 FROM FROM t;')") == ["2: syntax-error"]


def test_each_finding_is_one_cause(files: Files) -> None:
    """squawk knows many of these too."""
    assert files.lint("op.create_index('i', 'orders', ['a'])") == ["1: index-not-concurrent"]


def test_without_squawk_our_rules_run_alone(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backstay.db.migrations.lint._lint.find_squawk", lambda: None)
    body = "op.drop_table('t')\nop.execute('DROP VIEW v')  # allow[ban-drop-view]: why"

    assert files.lint(body) == ["1: drop-table"]
    assert not files.migrations.lint().used_squawk


def test_a_squawk_that_does_not_work_is_told(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "squawk"
    program.write_text("#!/bin/sh\necho too old >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("backstay.db.migrations.lint._lint.find_squawk", lambda: program)
    files.write("one", "op.execute('SELECT 1')")

    with pytest.raises(MigrationError, match="squawk does not work: too old"):
        files.migrations.lint()


# -- which migrations


def test_which_migrations_are_reported_on(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [files.write(one, f"op.drop_table('{one}')") for one in ("aa1", "aa2", "bb3")]
    monkeypatch.chdir(paths[0].parent)

    def linted(*targets: str | Path, since: str | None = None) -> list[str]:
        report = files.migrations.lint(*targets, since=since)
        assert [finding.path.stem for finding in report.findings] == [one.id for one in report.linted]
        return [one.id for one in report.linted]

    assert linted() == ["aa1", "aa2", "bb3"]
    assert linted("aa2", Path("bb3.py"), "bb") == ["aa2", "bb3"]
    assert linted(since="aa1") == ["aa2", "bb3"]
    assert linted(since="bb3") == []
    assert linted("aa1", "bb3", since="aa2") == ["bb3"]


@pytest.mark.parametrize("target", ["xx", "aa", "", Path("no_such.py")])
def test_what_is_no_migration_or_several_is_refused(files: Files, target: str | Path) -> None:
    for one in ("aa1", "aa2"):
        files.write(one, "pass")

    with pytest.raises(UnknownTargetError):
        files.migrations.lint(target)


def test_no_migration_is_no_finding(files: Files) -> None:
    assert files.migrations.lint() == LintReport((), (), used_squawk=True)

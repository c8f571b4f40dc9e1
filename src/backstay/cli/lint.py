"""`backstay db lint`: what the migrations would do to a busy PostgreSQL that they should not."""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import typer

from backstay.cli.messages import complain, say
from backstay.cli.project import enter_project, load_app
from backstay.db.migrations import UnknownTargetError
from backstay.db.migrations.lint import Finding, LintReport
from backstay.json import dumps

__all__ = ["lint"]

_CLEAN, _FOUND, _MISUSED = 0, 1, 2


def lint(app: str | None, *, targets: Sequence[str], since: str | None, as_json: bool) -> int:
    """Write the findings to standard output, and return the exit code.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        targets: Revisions or paths of migrations; all without any.
        since: Only those that a database at this revision lacks.
        as_json: One JSON document, for machines.

    Returns:
        0 without findings, 1 with some, 2 when a target is no migration.
    """
    # Paths are meant from where the command was called; finding the project changes the folder.
    located = [Path(target).absolute() if _is_path(target) else target for target in targets]
    migrations = load_app(enter_project(app)).installation.migrations
    try:
        # What a migration prints is not a finding.
        with redirect_stdout(sys.stderr):
            report = migrations.lint(*located, since=since)
    except UnknownTargetError as error:
        complain(str(error), hint=error.hint)
        return _MISUSED
    if as_json:
        typer.echo(dumps(_describe(report)))
    else:
        _write(report)
    return _FOUND if report.findings else _CLEAN


def _is_path(target: str) -> bool:
    return target.endswith(".py") or os.sep in target


def _describe(report: LintReport) -> dict[str, object]:
    return {
        "findings": [{**asdict(finding), "path": _shorten(finding.path)} for finding in report.findings],
        "linted": [revision.id for revision in report.linted],
        "used_squawk": report.used_squawk,
    }


def _write(report: LintReport) -> None:
    for finding in report.findings:
        typer.echo(_tell(finding))
    if not report.used_squawk:
        say("squawk is not installed, so only backstay's own rules were checked.")
        say("hint: pip install 'backstay[lint]'")
    say(_summarize(report))


def _tell(finding: Finding) -> str:
    place = f"{_shorten(finding.path)}:{finding.line}"
    return f"{place}: {finding.rule}: {finding.message}\nhint: {finding.hint}"


def _shorten(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _summarize(report: LintReport) -> str:
    looked_at = _count(len(report.linted), "migration")
    if not report.findings:
        return f"{looked_at} looked at: nothing found."
    touched = len({finding.path for finding in report.findings})
    return f"{_count(len(report.findings), 'finding')} in {touched} of {looked_at}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

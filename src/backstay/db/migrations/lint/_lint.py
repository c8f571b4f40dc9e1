"""The lint: every migration of the history is rendered and judged, those that were asked for are reported."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backstay.db.migrations._revision import Revision
from backstay.db.migrations.lint._judging import Judge, Ledger, Verdict
from backstay.db.migrations.lint._python import Allowance, read_allowances, read_habits
from backstay.db.migrations.lint._rendering import Rendering, render
from backstay.db.migrations.lint._rules import RULES
from backstay.db.migrations.lint._squawk import find_squawk, run_squawk
from backstay.errors import did_you_mean

__all__ = ["Finding", "LintReport", "lint"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a migration should not do.

    Attributes:
        path: The migration.
        line: Where, counted from 1: the line of the call of `op`.
        rule: The rule's name, as `# allow[rule]: reason` takes it.
        message: One sentence.
        hint: The safe way.
        tables: On which tables; none where the harm is another.
        lock: The lock that it takes on them; None where the harm is another.
        blocks: What waits for that lock; None without one.
    """

    path: Path
    line: int
    rule: str
    message: str
    hint: str
    tables: tuple[str, ...] = ()
    lock: str | None = None
    blocks: str | None = None


@dataclass(frozen=True, slots=True)
class LintReport:
    """What the lint found.

    Attributes:
        findings: In the order of the history, then of the lines.
        linted: The migrations that were looked at.
        used_squawk: Whether squawk was there to look at them too.
    """

    findings: tuple[Finding, ...]
    linted: tuple[Revision, ...]
    used_squawk: bool


def lint(revisions: Sequence[Revision], wanted: Collection[str]) -> LintReport:
    """Look at a history, parents first, and report on the migrations with the wanted ids."""
    ledger = Ledger()
    asked = [revision for revision in revisions if revision.id in wanted]
    renderings: dict[str, Rendering] = {}
    found: dict[str, list[Finding]] = {}
    for revision in revisions:
        rendering = render(revision.path)
        verdicts = _judge(rendering, ledger)
        if revision.id in wanted:
            renderings[revision.id] = rendering
            found[revision.id] = [*_told(revision, verdicts), *_habits(revision, rendering)]
    squawk = find_squawk()
    if squawk:
        _add_remarks(squawk, asked, renderings, found)
    findings = [
        finding
        for revision in asked
        for finding in _without_allowed(revision.path, found[revision.id], used_squawk=bool(squawk))
    ]
    return LintReport(tuple(findings), tuple(asked), used_squawk=bool(squawk))


def _judge(rendering: Rendering, ledger: Ledger) -> list[Verdict]:
    judge = Judge(ledger)
    verdicts = [verdict for statement in rendering.statements for verdict in judge.hear(statement)]
    if rendering.failure:
        line, reason = rendering.failure
        verdicts.append(Verdict(RULES["cannot-be-rendered"], line, what=reason))
    return verdicts


def _told(revision: Revision, verdicts: Iterable[Verdict]) -> Iterator[Finding]:
    for one in verdicts:
        yield _finding(revision.path, one.line, one.rule.name, tables=one.tables, what=one.what)


def _habits(revision: Revision, rendering: Rendering) -> Iterator[Finding]:
    does_something = bool(rendering.statements or rendering.failure)
    for habit in read_habits(_read(revision.path), does_something=does_something):
        yield _finding(revision.path, habit.line, habit.rule, what=habit.what)


def _finding(path: Path, line: int, name: str, *, tables: tuple[str, ...] = (), what: str = "") -> Finding:
    rule = RULES[name]
    message, hint = rule.tell(tables=tables, what=what), rule.advise(what=what)
    blocks = rule.lock.blocks if rule.lock else None
    return Finding(path, line, name, message, hint, tables, rule.lock, blocks)


def _add_remarks(
    squawk: Path,
    asked: Sequence[Revision],
    renderings: dict[str, Rendering],
    found: dict[str, list[Finding]],
) -> None:
    paths = {revision.id: revision.path for revision in asked}
    statements = {one: renderings[one].statements for one in paths if renderings[one].statements}
    told: set[tuple[str, int, str]] = set()
    for one, remark in run_squawk(squawk, statements) if statements else ():
        # One mistake of syntax is many, where it goes on reading behind it.
        if (one, remark.line, remark.rule) not in told:
            told.add((one, remark.line, remark.rule))
            found[one].append(Finding(paths[one], remark.line, remark.rule, remark.message, remark.hint))


def _without_allowed(path: Path, findings: Iterable[Finding], *, used_squawk: bool) -> list[Finding]:
    allowances = list(read_allowances(_read(path)))
    used: set[tuple[int, str]] = set()
    kept: list[Finding] = []
    for finding in dict.fromkeys(findings):
        allowing = [one for one in allowances if finding.line in one.lines and finding.rule in one.rules]
        used.update((one.line, finding.rule) for one in allowing)
        if not allowing:
            kept.append(finding)
    kept += _complaints(path, allowances, used, used_squawk=used_squawk)
    return sorted(kept, key=lambda finding: finding.line)


def _complaints(
    path: Path, allowances: Iterable[Allowance], used: Collection[tuple[int, str]], *, used_squawk: bool
) -> Iterator[Finding]:
    for allowance in allowances:
        if not allowance.reason:
            yield _finding(path, allowance.line, "allow-without-reason", what=", ".join(allowance.rules))
        for rule in allowance.rules or ("",):
            # Without squawk nobody knows whether its rules would have found something.
            if (allowance.line, rule) not in used and (used_squawk or rule in RULES):
                guess = "" if rule in RULES else did_you_mean(rule, RULES)
                complaint = _finding(path, allowance.line, "unused-allow", what=rule)
                yield replace(complaint, message=f"{complaint.message}{guess}")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")

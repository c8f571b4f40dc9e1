"""squawk, the linter for PostgreSQL's SQL, for what our own rules do not look at."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backstay.db.migrations._errors import MigrationError
from backstay.db.migrations.lint._rendering import Statement

__all__ = ["Remark", "find_squawk", "run_squawk"]

_SECONDS = 60

# Said by our own rules, with the lock and the way to do it in Alembic.
_OURS = {
    "adding-field-with-default", "adding-foreign-key-constraint", "adding-not-nullable-field",
    "adding-required-field", "adding-serial-primary-key-field",
    "ban-concurrent-index-creation-in-transaction", "ban-drop-column", "ban-drop-table", "ban-set-schema",
    "ban-truncate-cascade", "changing-column-type", "constraint-missing-not-valid",
    "disallowed-unique-constraint", "prefer-repack", "renaming-column", "renaming-table",
    "require-concurrent-index-creation", "require-concurrent-index-deletion", "require-concurrent-reindex",
}  # fmt: skip
# Said by the runner, which opens the transactions and sets the timeouts, or a matter of taste.
_NOT_SAID = {
    "ban-char-field", "ban-drop-constraint", "ban-uncommitted-transaction", "prefer-bigint-over-int",
    "prefer-bigint-over-smallint", "prefer-identity", "prefer-robust-stmts", "prefer-text-field",
    "prefer-timestamp-tz", "require-enum-value-ordering", "require-lock-timeout",
    "require-statement-timeout", "require-table-schema", "require-timeout-settings", "transaction-nesting",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Remark:
    """What squawk says about a statement."""

    rule: str
    line: int
    message: str
    hint: str


def find_squawk() -> Path | None:
    """Return where the program is: beside this Python, else on the path."""
    beside = Path(sysconfig.get_path("scripts")) / "squawk"
    found = shutil.which(beside) or shutil.which("squawk")
    return Path(found) if found else None


def run_squawk(program: Path, migrations: Mapping[str, Sequence[Statement]]) -> Iterator[tuple[str, Remark]]:
    """Yield what squawk says about the statements of several migrations, by the migrations' ids.

    Raises:
        MigrationError: The program does not work.
    """
    with TemporaryDirectory() as folder:
        for number, statements in enumerate(migrations.values()):
            text = "".join(f"{statement.sql}\n;\n" for statement in statements)
            (Path(folder) / f"{number}.sql").write_text(text, encoding="utf-8")
        remarks = _run(program, folder)
    ids = list(migrations)
    for remark in remarks:
        one = ids[int(Path(remark["file"]).stem)]
        rule = remark["rule_name"]
        if rule not in _OURS | _NOT_SAID:
            line = _find_line(migrations[one], remark["line"])
            hint = remark["help"] or f"squawk explains {rule} at https://squawkhq.com/docs/{rule}"
            yield one, Remark(rule, line, _sentence(remark["message"]), _sentence(hint))


def _run(program: Path, folder: str) -> list[dict[str, Any]]:
    command = [str(program), "--reporter", "json", "--assume-in-transaction", "*.sql"]
    done = subprocess.run(  # noqa: S603 - the program that this environment has, and our own files
        command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    try:
        remarks: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError as error:
        said = done.stderr.strip().partition("\n")[0]
        raise MigrationError(
            f"squawk does not work: {said or 'it said nothing'}.",
            hint="Install the version that backstay was tested with: pip install 'backstay[lint]'",
        ) from error
    return remarks


def _find_line(statements: Sequence[Statement], line: int) -> int:
    ends = accumulate(statement.sql.count("\n") + 2 for statement in statements)
    found = (statement.line for statement, end in zip(statements, ends, strict=True) if line < end)
    return next(found, statements[-1].line)


def _sentence(text: str) -> str:
    return f"{' '.join(text.split()).rstrip('.!')}."

"""The SQL of a migration for PostgreSQL, each statement with the line of the file that it comes from."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.ddl.postgresql import PostgresqlColumnType, PostgresqlImpl
from alembic.operations import BatchOperations, Operations
from alembic.runtime.migration import MigrationContext
from alembic.util import load_python_file
from sqlalchemy.dialects.postgresql.asyncpg import dialect as make_dialect

from backstay.db.migrations.lint._statements import name_of, split_statements

__all__ = ["Rendering", "Statement", "render"]

_LENGTH = re.compile(r"(?P<name>VARCHAR|NUMERIC)(?:\((?P<size>\d+)(?:, (?P<scale>\d+))?\))?$")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a migration.

    Attributes:
        index_table: The table of the index that it drops, where the migration names it.
        is_widening: It changes a column's type in a way that leaves the rows as they are.
    """

    sql: str
    line: int
    index_table: str = ""
    is_widening: bool = False


@dataclass(frozen=True, slots=True)
class Rendering:
    """What upgrade() would send.

    Attributes:
        failure: Line and reason, when it could not go on; the statements before it are there.
    """

    statements: tuple[Statement, ...]
    failure: tuple[int, str] | None = None


def render(path: Path) -> Rendering:
    """Run upgrade() of a migration file against nothing, and return the statements that it would send."""
    recorder = _make_recorder(path)
    try:
        module = load_python_file(path.parent, path.name)
    except Exception as error:  # noqa: BLE001 - importing a migration runs the user's code
        return Rendering((), _explain(error, path))
    try:
        with _operations(recorder):
            module.upgrade()
    except Exception as error:  # noqa: BLE001 - upgrade() is the user's code
        return Rendering(tuple(recorder.statements), _explain(error, path))
    return Rendering(tuple(recorder.statements))


def _explain(error: Exception, path: Path) -> tuple[int, str]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    reason = " ".join(str(error).split()).removesuffix(".")
    return (frames[-1].lineno or 1) if frames else 1, f"{type(error).__name__}: {reason}"


class _Recorder(PostgresqlImpl):
    """Alembic's PostgreSQL, which writes down what it would execute."""

    path: Path
    statements: list[Statement]
    batched_line: int | None = None

    def static_output(self, text: str) -> None:
        self._record(text)

    def _exec(
        self,
        construct: Any,
        execution_options: Mapping[str, Any] | None = None,
        multiparams: Sequence[Mapping[str, Any]] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        # Values stay placeholders: they do not matter to a lock, and not every type has a literal.
        clause = sa.text(construct) if isinstance(construct, str) else construct
        self._record(str(clause.compile(dialect=self.dialect)), clause)

    def bulk_insert(self, table: Any, rows: list[dict[str, Any]], multiinsert: bool = True) -> None:
        if rows:
            self._exec(table.insert())

    def _record(self, text: str, clause: object = None) -> None:
        for sql in split_statements(text):
            self.statements.append(
                Statement(
                    sql,
                    self.batched_line or self.find_line(),
                    _index_table(clause),
                    self._is_widening(clause),
                )
            )

    def find_line(self) -> int:
        """Return the line of the migration that is running."""
        frame = sys._getframe(1)  # noqa: SLF001 - the documented way to the caller
        while frame.f_code.co_filename != str(self.path) and frame.f_back:
            frame = frame.f_back
        return frame.f_lineno

    def _is_widening(self, clause: object) -> bool:
        if not isinstance(clause, PostgresqlColumnType) or clause.using or clause.existing_type is None:
            return False
        before, after = (self._spell(one) for one in (clause.existing_type, clause.type_))
        return _keeps_rows(before, after)

    def _spell(self, column_type: sa.types.TypeEngine[Any]) -> str:
        # To PostgreSQL a text is a varchar without a limit.
        return self.dialect.type_compiler_instance.process(column_type).replace("TEXT", "VARCHAR")


def _keeps_rows(before: str, after: str) -> bool:
    old, new = _LENGTH.match(before), _LENGTH.match(after)
    if not old or not new or old["name"] != new["name"]:
        return before == after
    if new["size"] is None:
        return True
    is_wider = old["size"] is not None and int(old["size"]) <= int(new["size"])
    return is_wider and old["scale"] == new["scale"]


def _index_table(clause: object) -> str:
    table = clause.element.table if isinstance(clause, sa.schema.DropIndex) else None
    # What Alembic calls a table that it was not told.
    return "" if table is None or table.name == "no_table" else name_of(str(table))


def _make_recorder(path: Path) -> _Recorder:
    dialect = make_dialect()  # type: ignore[no-untyped-call]
    recorder = _Recorder(dialect, None, True, True, None, {})
    recorder.path = path
    recorder.statements = []
    return recorder


@contextmanager
def _operations(recorder: _Recorder) -> Iterator[None]:
    options = {"as_sql": True, "transactional_ddl": True}
    context = MigrationContext(recorder.dialect, None, options)
    # What op.get_bind() returns: it takes statements, and answers nothing.
    recorder.connection = context.connection
    context.impl = recorder
    operations = Operations(context)
    operations.batch_alter_table = _batching(operations, recorder)  # type: ignore[method-assign]
    operations._install_proxy()  # noqa: SLF001 - as Operations.context does, which forgets it after an error
    try:
        yield
    finally:
        operations._remove_proxy()  # noqa: SLF001


def _batching(operations: Operations, recorder: _Recorder) -> Any:
    """Return a batch_alter_table that knows at which line each of its operations was called."""

    @contextmanager
    def batch_alter_table(*arguments: Any, **options: Any) -> Iterator[BatchOperations]:
        with Operations.batch_alter_table(operations, *arguments, **options) as batch:
            batch.impl.batch = _Batch(recorder)
            yield batch

    return batch_alter_table


class _Batch(list[Any]):
    """The operations of a batch, which are run at its end."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._lines: list[int] = []

    def append(self, call: Any) -> None:
        self._lines.append(self._recorder.find_line())
        super().append(call)

    def __iter__(self) -> Iterator[Any]:
        for call, line in zip(super().__iter__(), self._lines, strict=True):
            self._recorder.batched_line = line
            yield call
        self._recorder.batched_line = None

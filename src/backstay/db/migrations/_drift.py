"""What differs between models and database, in words: one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic.operations import ops
from sqlalchemy.engine import Connection, Dialect

from backstay.db.migrations._comparing import compare

__all__ = ["describe_drift"]


def describe_drift(
    connection: Connection, metadata: Sequence[sa.MetaData], *, foreign: Sequence[str]
) -> tuple[str, ...]:
    """Return a line for each difference, such as `column users.age: NOT NULL, database has NULL`."""
    found = compare(connection, metadata, foreign=foreign)
    lines = [f"table {name}: only in the database, no model declares it" for name in found.undeclared]
    operations: Sequence[Any] = found.script.upgrade_ops.ops if found.script.upgrade_ops else ()
    return tuple(
        lines + [line for operation in operations for line in _describe(operation, connection.dialect)]
    )


def _describe(operation: Any, dialect: Dialect) -> Iterator[str]:
    if isinstance(operation, ops.ModifyTableOps):
        for inner in operation.ops:
            yield from _describe(inner, dialect)
    elif isinstance(operation, ops.AlterColumnOp):
        yield from _describe_change(operation, dialect)
    else:
        yield _describe_presence(operation)


_MISSING = (ops.CreateTableOp, ops.AddColumnOp, ops.CreateIndexOp, ops.AddConstraintOp)
_EXTRA = (ops.DropColumnOp, ops.DropIndexOp, ops.DropConstraintOp)
_KINDS = {"foreignkey": "foreign key", "unique": "unique constraint", "check": "CHECK"}


def _describe_presence(operation: Any) -> str:
    subject = _name(operation)
    if isinstance(operation, _EXTRA):
        return f"{subject}: only in the database"
    if isinstance(operation, ops.CreateCheckConstraintOp):
        return f"{subject}: not in the database as CHECK ({operation.condition})"
    if isinstance(operation, _MISSING):
        return f"{subject}: not in the database"
    # A comment on a table, or what a later Alembic finds.
    return f"{subject}: {type(operation).__name__.removesuffix('Op')} would be needed"


def _name(operation: Any) -> str:
    table = getattr(operation, "table_name", None) or getattr(operation, "source_table", "?")
    if isinstance(operation, ops.AddColumnOp):
        return f"column {table}.{operation.column.name}"
    if isinstance(operation, ops.DropColumnOp):
        return f"column {table}.{operation.column_name}"
    if isinstance(operation, (ops.CreateIndexOp, ops.DropIndexOp)):
        return f"index {operation.index_name} on {table}"
    if isinstance(operation, (ops.AddConstraintOp, ops.DropConstraintOp)):
        kind = _KINDS.get(str(operation.constraint_type), "constraint")
        return f"{kind} {getattr(operation, 'constraint_name', None)} on {table}"
    return f"table {table}"


def _describe_change(change: ops.AlterColumnOp, dialect: Dialect) -> Iterator[str]:
    column = f"column {change.table_name}.{change.column_name}"
    if change.modify_type is not None:
        wanted, found = (_spell(one, dialect) for one in (change.modify_type, change.existing_type))
        yield f"{column}: type {wanted}, database has {found}"
    if change.modify_nullable is not None:
        wanted, found = ("NULL", "NOT NULL") if change.modify_nullable else ("NOT NULL", "NULL")
        yield f"{column}: {wanted}, database has {found}"
    if change.modify_server_default is not False:
        before = _default(change.existing_server_default)
        yield f"{column}: {_default(change.modify_server_default)}, database has {before}"
    if change.modify_comment is not False:
        yield f"{column}: comment {change.modify_comment!r}, database has {change.existing_comment!r}"


def _spell(column_type: Any, dialect: Dialect) -> str:
    return str(column_type.compile(dialect))


def _default(default: Any) -> str:
    if default is None or default is False:
        return "no server default"
    return f"server default {getattr(default, 'arg', default)}"

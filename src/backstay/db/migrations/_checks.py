"""CHECK constraints: compared by name and by text, those inside of a column too.

Alembic compares them by name only, and not at all unless told to: it loses one that stands inside of
`Column(...)` without a name, and takes one whose text has changed for the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import CreateCheckConstraintOp, DropConstraintOp, ModifyTableOps
from alembic.runtime.plugins import Plugin
from alembic.util import PriorityDispatchResult
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError

__all__ = ["PLUGIN"]

PLUGIN = "backstay.checks"

_logger = logging.getLogger("backstay.db.migrations")


_UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class _Check:
    """A CHECK of a model or of a database.

    Attributes:
        text: Its condition as the database stores it; None where the database could not store it,
            `_UNKNOWN` where it cannot be asked.
        fallback: What to call it in a migration when it has no name.
    """

    name: str | None
    source: str
    text: str | None
    fallback: str = ""


def _compare(  # noqa: PLR0913, PLR0917 - Alembic calls it so
    context: AutogenContext,
    change: ModifyTableOps,
    schema: str | None,
    table_name: str,
    existing: sa.Table | None,
    wanted: sa.Table | None,
) -> PriorityDispatchResult:
    if existing is None or wanted is None or context.connection is None:
        return PriorityDispatchResult.CONTINUE
    stored = _list_stored(context.connection, existing)
    declared = _list_declared(context.connection, wanted, existing)
    added, removed = _differences(declared, stored)
    for check in removed:
        if check.name is None:
            _logger.warning("Left a CHECK without a name on %s alone: no model has it", table_name)
            continue
        constraint = sa.CheckConstraint(check.source, name=sa.schema.conv(check.name), table=existing)
        change.ops.append(DropConstraintOp.from_constraint(constraint))
    for check in added:
        name = sa.schema.conv(check.name or check.fallback)
        change.ops.append(CreateCheckConstraintOp(name, table_name, sa.text(check.source), schema=schema))
    return PriorityDispatchResult.CONTINUE


def _differences(declared: Sequence[_Check], stored: Sequence[_Check]) -> tuple[list[_Check], list[_Check]]:
    """Return what to add and what to remove; a check that has changed is in both."""
    added, left = [], list(stored)
    for check in sorted(declared, key=lambda one: one.name is None):
        match = next((other for other in left if _is_same(check, other)), None)
        if match is None:
            added.append(check)
        else:
            left.remove(match)
    return added, left


def _is_same(declared: _Check, stored: _Check) -> bool:
    has_same_text = declared.text in (stored.text, _UNKNOWN)
    if declared.name is None:
        return has_same_text
    return declared.name == stored.name and (has_same_text or declared.text is None)


def _list_declared(connection: Connection, wanted: sa.Table, existing: sa.Table) -> list[_Check]:
    found = list(_find_declared(connection.dialect, wanted))
    sources = [source for _, source, _ in found]
    texts = _as_stored(connection, existing, sources)
    return [
        _Check(name, source, text, fallback)
        for (name, source, fallback), text in zip(found, texts, strict=True)
    ]


def _find_declared(dialect: Dialect, table: sa.Table) -> Iterator[tuple[str | None, str, str]]:
    """Yield name, source and fallback name of each CHECK that CREATE TABLE would write on this database."""
    compiler: Any = dialect.ddl_compiler(dialect, None)  # type: ignore[arg-type]  # as its own tests do
    places = [("", table.constraints), *((column.name, column.constraints) for column in table.columns)]
    number = 0
    for place, constraints in places:
        for constraint in constraints:
            rule: Any = getattr(constraint, "_create_rule", None)
            if not isinstance(constraint, sa.CheckConstraint) or (rule is not None and not rule(compiler)):
                continue
            number += 1
            source = compiler.sql_compiler.process(
                constraint.sqltext, include_table=False, literal_binds=True
            )
            yield _find_name(constraint, dialect), source, f"ck_{table.name}_{place or number}"


def _find_name(constraint: sa.CheckConstraint, dialect: Dialect) -> str | None:
    if not isinstance(constraint.name, str):
        return None
    return dialect.identifier_preparer.format_constraint(constraint, _alembic_quote=False)


def _list_stored(connection: Connection, table: sa.Table) -> list[_Check]:
    if connection.dialect.name == "postgresql":
        stored = _read_postgresql(connection, _quote(connection, table))
        return [_Check(name, text, text) for name, text in stored.items()]
    found = sa.inspect(connection).get_check_constraints(table.name, schema=table.schema)
    return [_Check(check["name"], check["sqltext"], _normalise(check["sqltext"])) for check in found]


def _as_stored(connection: Connection, table: sa.Table, sources: Sequence[str]) -> list[str | None]:
    """Return the conditions as the database would store them."""
    if connection.dialect.name != "postgresql":
        return [_normalise(source) for source in sources]
    if not sources:
        return []
    try:
        return _ask_postgresql(connection, table, sources)
    except DBAPIError:  # this user may not make temporary tables
        return [_UNKNOWN] * len(sources)


_SHADOW = "pg_temp.backstay_checks"


def _ask_postgresql(connection: Connection, table: sa.Table, sources: Sequence[str]) -> list[str | None]:
    """Let the server write the conditions in its own words, on a copy of the table that is rolled back."""
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE backstay_checks (LIKE {_quote(connection, table)})"
        )
        for number, source in enumerate(sources):
            _add_to_shadow(connection, f"check_{number}", source)
        texts: Mapping[str, str] = _read_postgresql(connection, _SHADOW)
        return [texts.get(f"check_{number}") for number in range(len(sources))]
    finally:
        savepoint.rollback()


def _add_to_shadow(connection: Connection, name: str, source: str) -> None:
    try:
        with connection.begin_nested():
            escaped = source.replace("%", "%%") if connection.dialect.paramstyle in _PERCENT else source
            connection.exec_driver_sql(f"ALTER TABLE {_SHADOW} ADD CONSTRAINT {name} CHECK ({escaped})")
    except DBAPIError:
        return  # it names a column that the database does not have yet


_PERCENT = ("format", "pyformat")
_DEFINITIONS = sa.text(
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE contype = 'c' AND conrelid = CAST(:relation AS text)::regclass"
)


def _read_postgresql(connection: Connection, relation: str) -> dict[str, str]:
    rows = connection.execute(_DEFINITIONS, {"relation": relation})
    return {str(name): _condition(definition) for name, definition in rows}


def _condition(definition: str) -> str:
    # Whether the old rows were looked at, or children inherit it, is not the model's to say.
    text = re.sub(r"( NO INHERIT| NOT VALID)+$", "", definition)
    return text.removeprefix("CHECK (").removesuffix(")")


def _quote(connection: Connection, table: sa.Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


def _normalise(source: str) -> str:
    """Return a condition as SQLite keeps it, without what people write differently."""
    parts = re.split(r"('(?:[^']|'')*')", source)
    parts[::2] = [re.sub(r"\s+", " ", re.sub(r"[\"`\[\]]", "", part)).lower() for part in parts[::2]]
    text = "".join(parts).strip()
    while text.startswith("(") and _closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position == len(text) - 1
    return False


Plugin(PLUGIN).add_autogenerate_comparator(_compare, "table", "checkconstraints")

"""What differs between the models and a database, found by Alembic with comparisons of our own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.operations.ops import CreateTableOp, MigrationScript
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection

from backstay.db.migrations._checks import PLUGIN as CHECKS
from backstay.db.migrations._defaults import PLUGIN as DEFAULTS
from backstay.db.migrations._environment import configure
from backstay.db.migrations._errors import UndroppableTableError
from backstay.errors import did_you_mean

__all__ = ["Comparison", "compare"]

_logger = logging.getLogger("backstay.db.migrations")

_PLUGINS = ("alembic.autogenerate.*", CHECKS, DEFAULTS)
_LIBRARY_TABLES = "backstay_*"
_VERSION_TABLE = "alembic_version"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs.

    Attributes:
        script: The operations that would make the database like the models, and those back.
        undeclared: The tables that no model declares and nobody has spoken for; no operation drops them.
    """

    script: MigrationScript
    context: MigrationContext
    undeclared: tuple[str, ...]


def compare(
    connection: Connection,
    metadata: Sequence[sa.MetaData],
    *,
    drop: Collection[str] = (),
    foreign: Collection[str] = (),
) -> Comparison:
    """Compare models and database.

    Args:
        connection: One on a database that has all migrations so far.
        metadata: The tables of the models, and those of the library.
        drop: Tables that no model declares any more and that are to be dropped.
        foreign: Names and patterns of tables that are somebody else's.

    Raises:
        UndroppableTableError: A table in `drop` is declared by a model, is the library's, or is not there.
    """
    declared = {name: table for one in metadata for name, table in one.tables.items()}
    _refuse_undroppable(connection, declared, drop)
    undeclared: list[str] = []
    patterns = (_LIBRARY_TABLES, *foreign)

    def is_ours(item: object, name: str | None, kind: str, reflected: bool, compare_to: object) -> bool:
        if kind != "table" or not reflected or compare_to is not None or name in drop:
            return True
        if name is not None and not any(fnmatchcase(name, pattern) for pattern in patterns):
            undeclared.append(name)
        return False

    context = configure(connection, {**_options(metadata), "include_object": is_ours})
    with _warnings_logged():
        script = produce_migrations(context, list(metadata))  # type: ignore[arg-type]  # it takes several
    _complete_new_tables(script, declared.values())
    return Comparison(script, context, tuple(sorted(undeclared)))


def _refuse_undroppable(connection: Connection, declared: Collection[str], drop: Collection[str]) -> None:
    existing = sa.inspect(connection).get_table_names()
    for table in drop:
        if table in declared:
            raise UndroppableTableError(
                table, "a model declares it.", hint="Remove the model first, or leave out --drop."
            )
        if table == _VERSION_TABLE or fnmatchcase(table, _LIBRARY_TABLES):
            raise UndroppableTableError(table, "it is the library's own.", hint="Leave out --drop.")
        if table not in existing:
            droppable = [name for name in existing if name not in declared]
            raise UndroppableTableError(
                table,
                f"the database has no such table.{did_you_mean(table, droppable)}",
                hint="Correct its name, or leave out --drop.",
            )


def _options(metadata: Sequence[sa.MetaData]) -> dict[str, Any]:
    return {
        "target_metadata": list(metadata),
        "compare_type": True,
        "compare_server_default": True,
        "autogenerate_plugins": _PLUGINS,
    }


@contextmanager
def _warnings_logged() -> Iterator[None]:
    # What Alembic cannot compare, such as an index of expressions on SQLite, goes with the other log lines.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        _logger.warning("%s", warning.message)


def _complete_new_tables(script: MigrationScript, declared: Iterable[sa.Table]) -> None:
    # Alembic writes the constraints of a table, and loses a CHECK that stands inside of a column.
    tables = {(table.schema, table.name): table for table in declared}
    for operation in script.upgrade_ops.ops if script.upgrade_ops else ():
        if isinstance(operation, CreateTableOp):
            table = tables[operation.schema, operation.table_name]
            operation.columns = [*operation.columns, *_find_inner_checks(table)]


def _find_inner_checks(table: sa.Table) -> Iterator[sa.CheckConstraint]:
    found = [
        one for column in table.columns for one in column.constraints if isinstance(one, sa.CheckConstraint)
    ]
    for check in sorted(found, key=lambda one: str(one.sqltext)):
        yield sa.CheckConstraint(check.sqltext, name=check.name, _autoattach=False)

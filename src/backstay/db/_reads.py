"""Which tables a statement reads, for whoever observes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ExecutionContext
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler

from backstay.transaction import UNKNOWN_READS, table_tag

__all__ = ["locks_rows", "tables_read"]

# What SQLAlchemy compiled it keeps, and so do we keep what we read in it.
_READ: WeakKeyDictionary[SQLCompiler, frozenset[str]] = WeakKeyDictionary()
_UNKNOWN = frozenset({UNKNOWN_READS})


def tables_read(context: ExecutionContext) -> frozenset[str]:
    """Return the tables that a statement names, as tags; what is only text counts as unknown."""
    compiled: Any = getattr(context, "compiled", None)
    if not isinstance(compiled, SQLCompiler):
        return _UNKNOWN
    tables = _READ.get(compiled)
    if tables is None:
        tables = _READ[compiled] = frozenset(_find_tables(compiled))
    return tables


def _find_tables(compiled: Any) -> Iterator[str]:
    for root in _roots(compiled):
        for element in visitors.iterate(root):
            if isinstance(element, sa.TableClause):
                yield table_tag(element.name)
            elif _SUBQUERY.search(_text_of(element)):
                yield UNKNOWN_READS


def _text_of(element: Any) -> str:
    """Return what the service wrote as SQL itself."""
    if isinstance(element, sa.TextClause):
        return element.text
    is_literal = isinstance(element, sa.ColumnClause) and element.is_literal
    return str(element.name) if is_literal else ""


def _roots(compiled: Any) -> Iterator[Any]:
    """Return the statement as it was written, and as the ORM completed it with joins."""
    yield compiled.statement
    state = compiled.compile_state
    completed = getattr(state, "statement", None)
    if completed is not None:
        yield completed
    yield from getattr(state, "froms", None) or ()


_SUBQUERY = re.compile(r"\b(SELECT|FROM|JOIN|TABLE|WITH)\b", re.IGNORECASE)


def locks_rows(context: ExecutionContext) -> bool:
    """Return whether a statement reads rows in order to change them: `SELECT ... FOR UPDATE`."""
    compiled: Any = getattr(context, "compiled", None)
    statement = getattr(compiled, "statement", None)
    return getattr(statement, "_for_update_arg", None) is not None

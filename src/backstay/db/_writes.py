"""What a transaction wrote, as tags (the page of `backstay.transaction` lists them).

The unit of work knows its rows and says so after each flush. Statements are read from what SQLAlchemy
compiled, whoever sent them, and count as unknown rows of their tables. A statement of the unit of work counts
so too until the flush names its rows: who sends such statements without a flush is on the safe side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ExecutionContext
from sqlalchemy.orm import InstanceState, Mapper, UOWTransaction
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase

from backstay.db._foreign_keys import tables_changed_with
from backstay.db._keys import Encoder, encode_key, encoders_of, has_same_key
from backstay.transaction import EVERYTHING, row_tag, table_tag, unknown_rows_tag

__all__ = ["Writes"]

_LIBRARY = "backstay_"


class Writes:
    """The writes of one transaction."""

    __slots__ = ("_tags", "_unnamed")

    def __init__(self) -> None:
        self._tags: set[str] = set()
        self._unnamed: set[str] = set()

    @property
    def tags(self) -> set[str]:
        """The tags of everything written so far."""
        if self._unnamed:
            self.end_rows()
        return self._tags

    def add_statement(self, statement: str, context: ExecutionContext) -> None:
        """Add what a statement is about to write."""
        compiled: Any = getattr(context, "compiled", None)
        if not isinstance(compiled, SQLCompiler):  # DDL, or text for the driver
            self._add_text(statement)
            return
        is_change = compiled.isinsert or compiled.isupdate or compiled.isdelete
        if is_change:
            change = _CHANGES.get(compiled)
            if change is None:
                change = _CHANGES[compiled] = _Change.read(compiled.statement, statement)
            self._add(change, statement, is_flush="compiled_cache" in context.execution_options)
        if statement[:4] == "WITH":
            self._add_expressions(statement, compiled, known=int(is_change))
        elif not is_change and statement[:6] != "SELECT":
            self._add_text(statement)

    def add_rows(self, flush: UOWTransaction) -> None:
        """Name the rows that the statements of a flush wrote."""
        if not self._unnamed:
            return
        for state in flush.states:
            _add_row(self._tags, state, self._unnamed)
        self._unnamed.clear()

    def end_rows(self) -> None:
        """Take statements that no flush has named the rows of for statements over unknown rows."""
        for table in self._unnamed:
            self._tags.update((table, unknown_rows_tag(table)))
        self._unnamed.clear()

    def add_orm_statement(self, statement: Any) -> None:
        """Add what an insert, update or delete of the ORM is about to write."""
        for _, tag in _Change.read(statement, "").tables:
            self._add_unknown(tag)

    def _add_expressions(self, statement: str, compiled: Any, *, known: int) -> None:
        changes = [cte.element for cte in compiled.ctes or () if isinstance(cte.element, UpdateBase)]
        for change in changes:
            self._add(_Change.read(change, statement), statement, is_flush=False)
        if len(_WRITES.findall(statement)) > known + len(changes):
            self._tags.add(EVERYTHING)  # text, or an expression inside of another

    def _add(self, change: _Change, statement: str, *, is_flush: bool) -> None:
        for table, tag in change.tables:
            if is_flush:
                self._unnamed.add(tag)
            else:
                self._add_unknown(tag)
            if change.deletes or change.updates:
                for other in tables_changed_with(table, update=None if change.deletes else statement):
                    self._add_unknown(other)

    def _add_text(self, statement: str) -> None:
        if _writes_something(statement):
            self._tags.add(EVERYTHING)

    def _add_unknown(self, table: str) -> None:
        if table == EVERYTHING:
            self._tags.add(EVERYTHING)
        else:
            self._tags.update((table, unknown_rows_tag(table)))


@dataclass(frozen=True, slots=True)
class _Change:
    """What an insert, update or delete says about its tables.

    Attributes:
        tables: With their tags; none when the table is the library's own.
        deletes: Whether rows may go.
        updates: Whether rows may change.
    """

    tables: tuple[tuple[sa.TableClause, str], ...]
    deletes: bool
    updates: bool

    @classmethod
    def read(cls, statement: Any, sql: str) -> _Change:
        """Read a statement and its SQL."""
        while not isinstance(statement, UpdateBase):
            statement = statement.element  # select(...).from_statement(insert(...).returning(...))
        tables = [(table, table_tag(table.name)) for table in _tables_in(statement)]
        return cls(
            tuple(one for one in tables if not one[1].startswith(_LIBRARY)),
            deletes=isinstance(statement, sa.Delete) or " OR REPLACE " in sql,
            updates=isinstance(statement, sa.Update) or " DO UPDATE " in sql,
        )


# SQLAlchemy keeps what it compiled, and so do we keep what we read in it.
_CHANGES: WeakKeyDictionary[SQLCompiler, _Change] = WeakKeyDictionary()


def _tables_in(statement: Any) -> Iterator[sa.TableClause]:
    if isinstance(statement.table, sa.TableClause):
        yield statement.table
        return
    for element in visitors.iterate(statement.table):  # an alias
        if isinstance(element, sa.TableClause):
            yield element


@dataclass(frozen=True, slots=True)
class _Rows:
    """How rows of a mapped class are named.

    Attributes:
        attributes: Those of the primary key, in the mapper's order.
        tables: The table's tag and the encoders of its key; None when the mapper finds rows by another.
    """

    attributes: tuple[str, ...]
    tables: tuple[tuple[str, tuple[Encoder, ...] | None], ...]


def _rows_of(mapper: Mapper[Any]) -> _Rows:
    encoders = encoders_of(mapper.primary_key)
    tables = [
        (table_tag(table.name), encoders if has_same_key(mapper, table) else None) for table in mapper.tables
    ]
    return _Rows(
        tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key), tuple(tables)
    )


_ROWS: WeakKeyDictionary[Mapper[Any], _Rows] = WeakKeyDictionary()


def _add_row(tags: set[str], state: InstanceState[Any], written: set[str]) -> None:
    rows = _ROWS.get(state.mapper)
    if rows is None:
        rows = _ROWS[state.mapper] = _rows_of(state.mapper)
    keys = _keys_of(state, rows.attributes)
    for table, encoders in rows.tables:
        if table not in written:
            continue
        tags.add(table)
        for key in keys:
            encoded = encode_key(key, encoders) if encoders else None
            tags.add(unknown_rows_tag(table) if encoded is None else row_tag(table, encoded))


def _keys_of(state: InstanceState[Any], attributes: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return the row's key as it was loaded and as it is now, where they differ."""
    values = state.dict
    now = tuple([values.get(name) for name in attributes])
    if state.key is None:
        return [now]
    before = state.key[1]
    return [before] if None in now or now == before else [before, now]


_FIRST_WORD = re.compile(r"(?:\s+|--[^\n]*\n|/\*.*?\*/|\()*(\w*)", re.DOTALL)
_HARMLESS = re.compile(
    "ANALYZE|BEGIN|CHECKPOINT|CLOSE|COMMENT|COMMIT|CREATE|DEALLOCATE|DECLARE|DISCARD|END|FETCH|GRANT|LISTEN"
    "|LOCK|NOTIFY|PRAGMA|REINDEX|RELEASE|RESET|REVOKE|ROLLBACK|SAVEPOINT|SELECT|SET|SHOW|START|TABLE|UNLISTEN"
    "|VACUUM|VALUES"
)
_WRITES = re.compile(
    r"\b(INSERT\s+INTO|DELETE\s+FROM|MERGE\s+INTO|(?<!FOR )(?<!KEY )(?<!DO )UPDATE)\b", re.IGNORECASE
)


@lru_cache(maxsize=1000)
def _writes_something(statement: str) -> bool:
    if ";" in statement.rstrip().rstrip(";"):
        return True  # several statements, as far as we can see
    match = _FIRST_WORD.match(statement)
    word = match.group(1).upper() if match else ""
    if word in {"WITH", "EXPLAIN"}:
        return _WRITES.search(statement) is not None
    return _HARMLESS.fullmatch(word) is None

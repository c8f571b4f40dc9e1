"""A table in batches, by ranges of its primary key: each costs an index scan of its own rows only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.types import TypeEngine

from backstay.db.types import JSONValue
from backstay.errors import UsageError

__all__ = [
    "Batch",
    "Key",
    "KeyValue",
    "KeyedTable",
    "decode_key",
    "describe_key",
    "encode_key",
    "inspect_table",
]

KeyValue: TypeAlias = int | str | float | bytes | Decimal | UUID | date
"""What a column of a primary key holds, as the database's driver gives it: on SQLite a UUID is text."""

Key: TypeAlias = tuple[KeyValue, ...]
"""One value for each column of the primary key, in its order."""

Types: TypeAlias = tuple[TypeEngine[Any], ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step: those whose primary key lies between two keys, both included.

    Attributes:
        first: The first row's key, one value for each of its columns.
        last: The last row's key.
        size: How many rows there were when the batch began.
        number: 1 for the first batch of the table.
    """

    first: Key
    last: Key
    size: int
    number: int
    _columns: tuple[str, ...] = field(repr=False)
    _types: Types = field(repr=False)

    def holds(self, *columns: sa.SQLColumnExpression[object]) -> sa.ColumnElement[bool]:
        """Return the condition that a row is in the batch, for a statement's `where`.

        Args:
            *columns: The columns of the primary key, in its order.
        """
        if len(columns) != len(self._columns):
            raise UsageError(f"The primary key has the columns {', '.join(self._columns)}: give all of them.")
        first, last = _bind(self.first, self._types), _bind(self.last, self._types)
        return sa.and_(_side(columns) >= _side(first), _side(columns) <= _side(last))

    @property
    def bounds(self) -> Mapping[str, KeyValue]:
        """The two keys as parameters of textual SQL: `BETWEEN :first_user_id AND :last_user_id`."""
        ends = (("first", self.first), ("last", self.last))
        return {
            f"{end}_{column}": value
            for end, key in ends
            for column, value in zip(self._columns, key, strict=True)
        }


@dataclass(frozen=True, slots=True)
class KeyedTable:
    """A table and its primary key, as the database has them."""

    table: sa.TableClause
    types: Types

    @property
    def columns(self) -> tuple[sa.ColumnClause[Any], ...]:
        """The columns of the primary key, in its order."""
        return tuple(self.table.c)

    def rest(self, after: Key | None) -> sa.ColumnElement[bool]:
        """Return the condition that a row comes after a key; every row does when it is None."""
        if after is None:
            return sa.true()
        is_behind: sa.ColumnElement[bool] = _side(self.columns) > _side(_bind(after, self.types))
        return is_behind

    def find_batch(
        self, connection: Connection, *, after: Key | None, size: int, number: int
    ) -> Batch | None:
        """Return the next rows behind a key; None when there are none."""
        # The size is written out: with a placeholder PostgreSQL may plan for a tenth of the table.
        limit: Any = sa.literal_column(str(int(size)))
        keys = (
            sa.select(*self.columns).where(self.rest(after)).order_by(*self.columns).limit(limit).subquery()
        )
        position = sa.func.row_number().over(order_by=list(keys.c)).label("backstay_position")
        numbered = sa.select(*keys.c, position, sa.func.count().over().label("backstay_size")).subquery()
        is_end = numbered.c.backstay_position.in_([1, numbered.c.backstay_size])
        ends = connection.execute(
            sa.select(numbered).where(is_end).order_by(numbered.c.backstay_position)
        ).all()
        if not ends:
            return None
        width, names = len(self.types), tuple(column.name for column in self.columns)
        first, last = tuple(ends[0][:width]), tuple(ends[-1][:width])
        return Batch(first, last, int(ends[0].backstay_size), number, names, self.types)


def inspect_table(connection: Connection, name: str) -> KeyedTable:
    """Return a table as the database has it.

    Args:
        connection: Any connection to the database.
        name: The table's name, with `schema.` before it when it lies in another one.

    Raises:
        LookupError: There is no such table, or it has no primary key.
    """
    schema, _, bare = name.rpartition(".")
    inspector = sa.inspect(connection)
    try:
        key = inspector.get_pk_constraint(bare, schema=schema or None)["constrained_columns"]
        reflected = {one["name"]: one["type"] for one in inspector.get_columns(bare, schema=schema or None)}
    except NoSuchTableError as error:
        raise LookupError(f"there is no table {name!r}.") from error
    if not key:
        raise LookupError(f"the table {name!r} has no primary key, by which to walk through it.")
    # On SQLite values stay as they are stored: what a declared type would make of them may sort differently.
    is_sqlite = connection.dialect.name == "sqlite"
    types = tuple(sa.types.NullType() if is_sqlite else reflected[column] for column in key)
    columns = [sa.column(column, type_) for column, type_ in zip(key, types, strict=True)]
    return KeyedTable(sa.table(bare, *columns, schema=schema or None), types)


def _side(columns: Sequence[sa.SQLColumnExpression[Any]]) -> Any:
    """Return one side of a comparison: a column, or a row of columns, compared in their order."""
    return columns[0] if len(columns) == 1 else sa.tuple_(*columns)


def _bind(key: Key, types: Types) -> tuple[sa.BindParameter[Any], ...]:
    return tuple(
        sa.literal(value, None if isinstance(type_, sa.types.NullType) else type_)
        for value, type_ in zip(key, types, strict=True)
    )


def describe_key(key: Key) -> str:
    """Return a key for a message."""
    return ", ".join(map(str, key))


_KINDS: Mapping[str, tuple[type, Callable[[Any], str], Callable[[str], KeyValue]]] = {
    "uuid": (UUID, str, UUID),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "decimal": (Decimal, str, Decimal),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
}


def encode_key(key: Key) -> list[JSONValue]:
    """Return a key as JSON; what JSON has no word for becomes a dict of its kind and its text.

    Raises:
        LookupError: Keys of such a type cannot be kept.
    """
    return [_encode(value) for value in key]


def _encode(value: KeyValue) -> JSONValue:
    if isinstance(value, int | str | float):
        return value
    for kind, (python_type, write, _) in _KINDS.items():
        if isinstance(value, python_type):
            return {kind: write(value)}
    raise LookupError(f"a primary key of the type {type(value).__name__} cannot be walked through.")


def decode_key(stored: Sequence[JSONValue]) -> Key:
    """Return the key that `encode_key` has written."""
    return tuple(_decode(value) for value in stored)


def _decode(value: Any) -> KeyValue:
    if not isinstance(value, dict):
        return value  # type: ignore[no-any-return]  # a number or a text, by encode_key
    [(kind, text)] = value.items()
    return _KINDS[kind][2](text)

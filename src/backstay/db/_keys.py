"""Primary keys as text: the same for everybody who means the same row.

The type of the column decides, not the type of the value: "7" for an integer column is 7, and a UUID may come
as text. A key that has no such text is no error: its reader depends on the whole table, its writer says that
it wrote unknown rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any
from urllib.parse import quote
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.exc import UnmappedColumnError

from backstay.db.types import Integer, String, Uuid

__all__ = ["Encoder", "encode_key", "encoder_of", "encoders_of", "has_same_key"]

Encoder = Callable[[Any], str | None]


def encode_key(values: Sequence[Any], encoders: Sequence[Encoder]) -> str | None:
    """Return the key made of these values, in the order of the columns; None when one has no text."""
    if len(encoders) == 1:
        return encoders[0](values[0])
    parts = [encode(value) for encode, value in zip(encoders, values, strict=True)]
    return None if None in parts else ",".join(parts)  # type: ignore[arg-type]  # no None is among them


def encoders_of(columns: Sequence[sa.ColumnElement[Any]]) -> tuple[Encoder, ...] | None:
    """Return how to encode each of these columns; None when one of them cannot be."""
    encoders = [encoder_of(column) for column in columns]
    return None if not encoders or None in encoders else tuple(encoders)  # type: ignore[arg-type]  # see above


def encoder_of(column: sa.ColumnElement[Any]) -> Encoder | None:
    """Return how to encode the values of a column; None for a type that may call two texts equal."""
    kind = column.type
    if type(kind) in _OWN:
        return _OWN[type(kind)]
    if not type(kind).__module__.startswith("sqlalchemy."):
        return None  # somebody's own type may change the value on its way
    if isinstance(kind, sa.Integer):
        return _encode_integer
    if isinstance(kind, sa.Uuid):
        return _encode_uuid
    is_exact = isinstance(kind, sa.String) and not isinstance(kind, _INEXACT) and kind.collation is None
    return _encode_string if is_exact else None


# CHAR pads, CITEXT ignores case, and so may a collation.
_INEXACT = (sa.CHAR, sa.NCHAR, sa.Enum, CITEXT)


def has_same_key(mapper: Mapper[Any], table: sa.FromClause) -> bool:
    """Return whether the primary key of a table is the one that a mapper finds its rows by, in its order."""
    try:
        keys = [mapper.get_property_by_column(column).key for column in table.primary_key]
    except UnmappedColumnError:
        return False
    return keys == [mapper.get_property_by_column(column).key for column in mapper.primary_key]


def _encode_integer(value: Any) -> str | None:
    try:
        return str(int(value) if isinstance(value, str) else index(value))
    except (ValueError, TypeError):
        return None


def _encode_uuid(value: Any) -> str | None:
    try:
        return value.hex if isinstance(value, UUID) else UUID(value).hex
    except (ValueError, TypeError, AttributeError):
        return None


def _encode_string(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return value if value.isalnum() and value.isascii() else quote(value, safe="", errors="surrogatepass")


_OWN: dict[type, Encoder] = {Integer: _encode_integer, String: _encode_string, Uuid: _encode_uuid}

"""Column types that behave the same on SQLite and PostgreSQL.

What one of the two databases would refuse, change or round is refused on both, with the same
`ColumnValueError`, before a statement is sent. `Model` picks them from the annotation; most are never named:

    datetime                      UTCDateTime
    UUID                          Uuid
    str, int, float               String, Integer, Float
    dict, list, JSONValue         JSON
    Status, Literal["a", "b"]     Enum
    Decimal                       needs its digits: mapped_column(Numeric(12, 2))

They carry SQLAlchemy's names. A service that only ever runs on PostgreSQL may use SQLAlchemy's own instead,
column by column.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.sql import operators
from sqlalchemy.types import TypeDecorator, TypeEngine
from typing_extensions import TypeAliasType, override

from backstay.errors import ConfigurationError, UsageError

__all__ = [
    "JSON",
    "ColumnValueError",
    "Enum",
    "Float",
    "Integer",
    "JSONValue",
    "Numeric",
    "PortableType",
    "String",
    "UTCDateTime",
    "Uuid",
]

JSONValue = TypeAliasType(
    "JSONValue", "str | int | float | bool | list[JSONValue] | dict[str, JSONValue] | None"
)
"""What a `JSON` column holds, for annotations."""

T = TypeVar("T")

_INTEGERS_64_BIT = range(-(2**63), 2**63)
# An integer of 64 bits holds every number of 18 digits, and not every one of 19.
_MOST_DIGITS = 18
_DIGIT_CONTEXT = Context(prec=2 * _MOST_DIGITS)
_NO_CLOCK_ARITHMETIC = (
    "A UTCDateTime column cannot be added to or subtracted from in SQL: SQLite has no intervals. "
    "Compute the moment in Python, as in `Order.created_at < now - timedelta(days=1)`."
)


class ColumnValueError(UsageError, ValueError, DontWrapMixin):
    """A value does not fit its column; raised before the statement is sent, the same on every database.

    Strings and JSON are not repeated in the message: they may be secret.
    """


class PortableType(TypeDecorator[T]):
    """The parent of the types in this module; migrations name them by their `repr`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class UTCDateTime(PortableType[datetime]):
    """A moment: aware in, aware in UTC out, to the microsecond.

    PostgreSQL stores `timestamptz`; SQLite stores text such as `2026-01-31 09:30:00.000000`, always in UTC,
    so that text sorts as time does. Naive datetimes are refused, in comparisons too. Compute moments in
    Python: SQLite cannot add an interval to one.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    class Comparator(TypeDecorator.Comparator[datetime], sa.DateTime.Comparator[datetime]):
        """Refuses arithmetic, which SQLite would answer with nonsense."""

        @override
        def operate(self, op: Any, *other: Any, **kwargs: Any) -> sa.ColumnElement[datetime]:  # type: ignore[override]  # no result_type
            if op in (operators.add, operators.sub):
                raise UsageError(_NO_CLOCK_ARITHMETIC)
            return super().operate(op, *other, **kwargs)

        @override
        def reverse_operate(self, op: Any, other: Any, **kwargs: Any) -> sa.ColumnElement[datetime]:
            raise UsageError(_NO_CLOCK_ARITHMETIC)

    comparator_factory = Comparator

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = _in_utc(value)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _in_utc(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise ColumnValueError(f"A UTCDateTime column takes a datetime, not {_kind(value)}.")
    if value.utcoffset() is None:
        raise ColumnValueError(
            f"A UTCDateTime column refuses the naive datetime {value.isoformat()}; "
            "give it a time zone, as datetime.now(UTC) does."
        )
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ColumnValueError(f"{value.isoformat()} lies outside the years 1 to 9999 in UTC.") from error


class Uuid(PortableType[UUID]):
    """A `uuid.UUID`: native on PostgreSQL, 32 hexadecimal digits on SQLite, sorted alike on both.

    The result is always a plain `uuid.UUID`, not asyncpg's own subclass, which JSON encoders refuse.
    """

    impl = sa.Uuid
    cache_ok = True

    @override
    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> UUID | None:
        if value is not None and not isinstance(value, UUID):
            raise ColumnValueError(f"A Uuid column takes a uuid.UUID, not {_kind(value)}; parse it first.")
        return value

    @override
    def process_result_value(self, value: UUID | None, dialect: Dialect) -> UUID | None:
        return value if value is None or type(value) is UUID else UUID(int=value.int)


class String(PortableType[str]):
    """Text of at most `length` characters, any length when None.

    Written values longer than that are refused, as are NUL characters and lone surrogates, which PostgreSQL
    cannot store. A value that is only compared may be longer: it equals nothing.
    """

    impl = sa.String
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def __repr__(self) -> str:
        return "String()" if self.length is None else f"String({self.length})"

    @override
    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        return self if self.length is None else String()

    @override
    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            raise ColumnValueError(f"A String column takes a str, not {_kind(value)}.")
        if self.length is not None and len(value) > self.length:
            raise ColumnValueError(f"A text of {len(value)} characters does not fit a {self!r} column.")
        _refuse_unstorable_text(value, holder="String")
        return value


def _refuse_unstorable_text(value: str, *, holder: str) -> None:
    if "\x00" in value:
        raise ColumnValueError(f"A {holder} column refuses text with a NUL character.")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ColumnValueError(f"A {holder} column refuses text with half of a surrogate pair.") from error


class Integer(PortableType[int]):
    """An integer of 64 bits on both databases: `BIGINT` on PostgreSQL, `INTEGER` on SQLite."""

    impl = sa.BigInteger
    cache_ok = True

    @override
    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        # Only a column that is spelled INTEGER numbers its rows by itself on SQLite.
        return dialect.type_descriptor(sa.Integer() if dialect.name == "sqlite" else sa.BigInteger())

    @override
    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        return self if type(value) is int else self.impl_instance.coerce_compared_value(op, value)

    @override
    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise ColumnValueError(f"An Integer column takes an int, not {_kind(value)}.")
        if value not in _INTEGERS_64_BIT:
            raise ColumnValueError(f"An Integer column holds 64 bits; a number of {value.bit_length()} came.")
        return value


class Float(PortableType[float]):
    """A double. NaN and the infinities are refused: SQLite would store NaN as NULL."""

    impl = sa.Double
    cache_ok = True

    @override
    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        return self if isinstance(value, float) else self.impl_instance.coerce_compared_value(op, value)

    @override
    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ColumnValueError(f"A Float column takes a float, not {_kind(value)}.")
        if not math.isfinite(value):
            raise ColumnValueError(f"A Float column refuses {value}.")
        return float(value)


class Numeric(PortableType[Decimal]):
    """An exact `Decimal` of at most `precision` digits, `scale` of them after the point.

    PostgreSQL stores `NUMERIC`. SQLite has no decimals, so there it is an integer of the smallest unit: 19.99
    with a scale of 2 is stored as 1999. Comparing, sorting, `sum`, `min`, `max`, adding, subtracting and
    multiplying by an integer are exact on both; other arithmetic in SQL is refused. Raw SQL, `avg` and `cast`
    meet the bare integer on SQLite: do those in Python, or use SQLAlchemy's own `Numeric` where only
    PostgreSQL is served.

    Floats are refused, and values with more digits than declared, rather than rounded.

    Args:
        precision: All digits, at most 18.
        scale: The digits after the point.

    Raises:
        ConfigurationError: The digits do not fit.
    """

    impl = sa.Numeric
    cache_ok = True

    class Comparator(TypeDecorator.Comparator[Decimal], sa.Numeric.Comparator[Decimal]):
        """Refuses the arithmetic whose result would depend on the database."""

        @override
        def operate(self, op: Any, *other: Any, **kwargs: Any) -> sa.ColumnElement[Decimal]:  # type: ignore[override]  # no result_type
            for operand in other:
                _refuse_inexact_arithmetic(op, self.type, operand)
            return super().operate(op, *other, **kwargs)

        @override
        def reverse_operate(self, op: Any, other: Any, **kwargs: Any) -> sa.ColumnElement[Decimal]:
            _refuse_inexact_arithmetic(op, self.type, other)
            return super().reverse_operate(op, other, **kwargs)

    comparator_factory = Comparator

    def __init__(self, precision: int, scale: int) -> None:
        if not 0 <= scale <= precision <= _MOST_DIGITS or precision < 1:
            raise ConfigurationError(
                f"Numeric({precision}, {scale}) is not a column type: it takes 1 to {_MOST_DIGITS} digits, "
                "and no more of them after the point."
            )
        super().__init__(precision, scale)
        self.precision = precision
        self.scale = scale

    def __repr__(self) -> str:
        return f"Numeric({self.precision}, {self.scale})"

    @override
    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.BigInteger())
        return dialect.type_descriptor(sa.Numeric(self.precision, self.scale))

    @override
    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        return sa.BigInteger() if op is operators.mul else self

    @override
    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | int | None:
        if value is None:
            return None
        number = self._exact(value)
        return int(number.scaleb(self.scale, _DIGIT_CONTEXT)) if dialect.name == "sqlite" else number

    @override
    def process_result_value(self, value: Decimal | int | None, dialect: Dialect) -> Decimal | None:
        if value is None or isinstance(value, Decimal):
            return value
        if not isinstance(value, int):
            raise ColumnValueError(f"A {self!r} column holds {value!r}, which raw SQL has left there.")
        return Decimal(value).scaleb(-self.scale, _DIGIT_CONTEXT)

    def _exact(self, value: object) -> Decimal:
        if not isinstance(value, (Decimal, int)) or isinstance(value, bool):
            raise ColumnValueError(f"A {self!r} column takes a Decimal, not {_kind(value)}.")
        number = Decimal(value)
        if not number.is_finite():
            raise ColumnValueError(f"A {self!r} column refuses {number}.")
        if number and number.adjusted() >= self.precision - self.scale:
            raise ColumnValueError(f"{number.adjusted() + 1} digits before the point do not fit {self!r}.")
        if _digits_are_cut(number, self.scale):
            raise ColumnValueError(f"A {self!r} column would round {number}; round it first.")
        return number


def _refuse_inexact_arithmetic(op: object, column_type: TypeEngine[Any], operand: object) -> None:
    if op in (operators.truediv, operators.floordiv, operators.mod):
        raise UsageError("A Numeric column is not divided in SQL: databases differ in it; do it in Python.")
    operand_type = getattr(operand, "type", None)
    if op is operators.mul:
        if not isinstance(operand, int) and not _is_number(operand_type, sa.Integer):
            raise UsageError("A Numeric column is multiplied by integers only in SQL; do it in Python.")
    elif _is_number(operand_type) and not _has_scale_of(operand_type, column_type):
        raise UsageError(
            f"A {column_type!r} column meets {operand_type!r} in SQL; "
            "both sides need the same scale to mean the same on every database."
        )


def _is_number(column_type: object, *kinds: type[TypeEngine[Any]]) -> bool:
    bare = column_type.impl_instance if isinstance(column_type, TypeDecorator) else column_type
    return isinstance(bare, kinds or (sa.Integer, sa.Numeric, sa.Float))


def _has_scale_of(left: object, right: object) -> bool:
    return isinstance(left, Numeric) and isinstance(right, Numeric) and left.scale == right.scale


def _digits_are_cut(number: Decimal, scale: int) -> bool:
    _, digits, exponent = number.as_tuple()
    surplus = -int(exponent) - scale
    return surplus > 0 and any(digits[-surplus:])


class JSON(PortableType[JSONValue]):
    """A JSON value: `JSONB` on PostgreSQL, text on SQLite.

    None is SQL's NULL; a `null` can only stand inside of an array or object. NaN, infinities, integers beyond
    64 bits and text that PostgreSQL cannot store are refused. PostgreSQL does not keep the order of keys. In
    SQL compare single members, as in `Event.payload["kind"].as_string() == "paid"`.

    A change inside of the value is not noticed: assign a new one, or wrap the column's type in
    `sqlalchemy.ext.mutable.MutableDict.as_mutable(JSON())`.
    """

    impl = sa.JSON(none_as_null=True)
    cache_ok = True

    @override
    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.JSONB(none_as_null=True))
        return dialect.type_descriptor(sa.JSON(none_as_null=True))

    @override
    def process_bind_param(self, value: JSONValue | None, dialect: Dialect) -> JSONValue | None:
        _refuse_unstorable_json(value)
        return value


def _refuse_unstorable_json(value: object) -> None:
    if isinstance(value, Mapping):
        for key, member in value.items():
            _refuse_unstorable_key(key)
            _refuse_unstorable_json(member)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_unstorable_json(item)
    else:
        _refuse_unstorable_scalar(value)


def _refuse_unstorable_key(key: object) -> None:
    if not isinstance(key, str):
        raise ColumnValueError(f"A JSON column takes objects with str keys, not {_kind(key)}.")
    _refuse_unstorable_text(key, holder="JSON")


def _refuse_unstorable_scalar(value: object) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _refuse_unstorable_text(value, holder="JSON")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ColumnValueError(f"A JSON column refuses {value}.")
    elif not isinstance(value, int):
        raise ColumnValueError(f"A JSON column takes what JSON has, not {_kind(value)}.")
    elif value not in _INTEGERS_64_BIT:
        raise ColumnValueError(f"A JSON column holds integers of 64 bits; one of {value.bit_length()} came.")


class Enum(PortableType[Any]):
    """One of a few texts: the values of an `enum.Enum`, or the strings themselves.

    Stored as text, not as a PostgreSQL enum, whose values can never be taken away. On a `Model` the table
    gets a CHECK named `ck_<table>_<column>` in its own right, so that migrations see it.

    Args:
        members: An `enum.Enum` whose values are all strings, or a tuple of strings.

    Raises:
        ConfigurationError: A value is not a string, or there is none.
    """

    impl = sa.String
    cache_ok = True

    def __init__(self, members: type[enum.Enum] | tuple[str, ...]) -> None:
        self.members = members
        texts = members if isinstance(members, tuple) else tuple(member.value for member in members)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ConfigurationError(f"An Enum column stores strings; {members!r} has others, or none.")
        self._read: Callable[[str], Any] = str if isinstance(members, tuple) else members
        self.texts: tuple[str, ...] = texts
        super().__init__()

    def __repr__(self) -> str:
        return f"Enum({self.texts!r})"

    @override
    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        text = value.value if isinstance(value, enum.Enum) else value
        if text not in self.texts:
            raise ColumnValueError(f"An Enum column takes one of {', '.join(self.texts)} only.")
        return str(text)

    @override
    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else self._read(value)


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"

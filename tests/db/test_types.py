from __future__ import annotations

import enum
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import asyncpg.pgproto.pgproto as asyncpg_types
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backstay.db.types import (
    JSON,
    ColumnValueError,
    Enum,
    Float,
    Integer,
    Numeric,
    PortableType,
    String,
    UTCDateTime,
    Uuid,
)
from backstay.errors import ConfigurationError, UsageError


class Status(enum.Enum):
    DRAFT = "draft"
    PAID = "paid"


class Size(enum.IntEnum):
    SMALL = 1


metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", Integer(), primary_key=True),
    sa.Column("moment", UTCDateTime()),
    sa.Column("key", Uuid()),
    sa.Column("name", String(5)),
    sa.Column("text", String()),
    sa.Column("number", Integer()),
    sa.Column("ratio", Float()),
    sa.Column("price", Numeric(12, 2)),
    sa.Column("weight", Numeric(6, 3)),
    sa.Column("payload", JSON()),
    sa.Column("status", Enum(Status)),
    sa.Column("size", Enum(("small", "large"))),
)


@pytest.fixture
async def connection(empty_engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with empty_engine.connect() as connection:
        await connection.run_sync(metadata.create_all)
        yield connection


async def store(connection: AsyncConnection, **values: Any) -> None:
    await connection.execute(things.insert().values(**values))


async def stored(connection: AsyncConnection, column: str) -> Any:
    return (await connection.execute(sa.select(things.c[column]).order_by(things.c.id))).scalars().all()


async def found(connection: AsyncConnection, condition: sa.ColumnElement[bool]) -> int:
    return (
        await connection.execute(sa.select(sa.func.count()).select_from(things).where(condition))
    ).scalar_one()


# -- UTCDateTime


async def test_a_moment_comes_back_aware_in_utc_to_the_microsecond(connection: AsyncConnection) -> None:
    moment = datetime(2026, 1, 31, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))

    await store(connection, moment=moment)

    (result,) = await stored(connection, "moment")
    assert result == moment
    assert result.tzinfo is UTC


async def test_moments_sort_and_compare_by_time_whatever_their_zone(connection: AsyncConnection) -> None:
    early = datetime(2026, 1, 1, 23, 0, tzinfo=timezone(timedelta(hours=9)))
    late = datetime(2026, 1, 1, 14, 0, 0, 1, tzinfo=UTC)
    await store(connection, moment=late)
    await store(connection, moment=early)

    ordered = (await connection.execute(sa.select(things.c.moment).order_by(things.c.moment))).scalars().all()

    assert ordered == [early, late]
    assert await found(connection, things.c.moment == early.astimezone(UTC)) == 1
    assert await found(connection, things.c.moment > early) == 1
    assert await found(connection, things.c.moment.between(early, late)) == 2
    assert (await connection.execute(sa.select(sa.func.max(things.c.moment)))).scalar_one() == late


async def test_a_server_default_of_now_is_read_as_utc(connection: AsyncConnection) -> None:
    await store(connection, moment=sa.func.now())

    (result,) = await stored(connection, "moment")
    assert abs(datetime.now(UTC) - result) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (datetime(2026, 1, 1), "naive datetime 2026-01-01T00:00:00"),
        (date(2026, 1, 1), "takes a datetime, not a value of type date"),
        ("2026-01-01", "takes a datetime, not a value of type str"),
        (datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), "outside the years"),
    ],
)
async def test_what_is_no_moment_is_refused_in_writes_and_comparisons(
    connection: AsyncConnection, value: Any, message: str
) -> None:
    with pytest.raises(ColumnValueError, match=message):
        await store(connection, moment=value)
    with pytest.raises(ColumnValueError, match=message):
        await found(connection, things.c.moment >= value)


def test_clock_arithmetic_in_sql_is_refused_because_sqlite_has_no_intervals() -> None:
    with pytest.raises(UsageError, match="Compute the moment in Python"):
        things.c.moment + timedelta(days=1)
    with pytest.raises(UsageError, match="Compute the moment in Python"):
        datetime.now(UTC) - things.c.moment


# -- Uuid


async def test_a_uuid_comes_back_as_the_plain_class(connection: AsyncConnection) -> None:
    key = uuid.uuid4()

    await store(connection, key=key)

    assert [type(result) for result in await stored(connection, "key")] == [uuid.UUID]
    assert await found(connection, things.c.key == key) == 1
    assert await found(connection, things.c.key.in_([key, uuid.uuid4()])) == 1


async def test_asyncpgs_own_uuid_is_accepted(connection: AsyncConnection) -> None:
    key = asyncpg_types.UUID(str(uuid.uuid4()))

    await store(connection, key=key)

    assert await stored(connection, "key") == [key]


async def test_uuids_sort_alike(connection: AsyncConnection) -> None:
    keys = [uuid.UUID(int=number) for number in (2**127, 1, 2**64, 255, 16)]
    for key in keys:
        await store(connection, key=key)

    ordered = (await connection.execute(sa.select(things.c.key).order_by(things.c.key))).scalars().all()

    assert ordered == sorted(keys)


async def test_text_is_no_uuid(connection: AsyncConnection) -> None:
    with pytest.raises(ColumnValueError, match=r"takes a uuid\.UUID, not a value of type str"):
        await store(connection, key=str(uuid.uuid4()))


# -- String


async def test_text_fits_by_characters_not_bytes(connection: AsyncConnection) -> None:
    await store(connection, name="äöü€𝄞", text="x" * 10_000)

    assert await stored(connection, "name") == ["äöü€𝄞"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("123456", r"6 characters does not fit a String\(5\) column"),
        ("a\x00b", "NUL"),
        ("\ud800", "surrogate"),
        (7, "takes a str, not a value of type int"),
    ],
)
async def test_text_that_one_database_would_refuse_or_change_is_refused(
    connection: AsyncConnection, value: Any, message: str
) -> None:
    with pytest.raises(ColumnValueError, match=message):
        await store(connection, name=value)
    with pytest.raises(ColumnValueError, match=message):
        await connection.execute(things.update().values(name=value))


async def test_text_is_compared_with_text_only(connection: AsyncConnection) -> None:
    with pytest.raises(ColumnValueError, match="takes a str, not a value of type int"):
        await found(connection, things.c.name == 7)


async def test_a_refusal_does_not_repeat_the_text(connection: AsyncConnection) -> None:
    with pytest.raises(ColumnValueError) as caught:
        await store(connection, name="secret-password")

    assert "secret" not in str(caught.value)


async def test_a_longer_text_may_be_searched_for(connection: AsyncConnection) -> None:
    await store(connection, name="short", text="long enough")

    assert await found(connection, things.c.name == "x" * 1000) == 0
    assert await found(connection, things.c.name.in_(["x" * 1000, "short"])) == 1
    assert await found(connection, things.c.name.like("%hor%")) == 1
    assert await found(connection, things.c.text.startswith("long")) == 1
    assert await found(connection, things.c.name + things.c.text == "shortlong enough") == 1
    assert await found(connection, things.c.name.is_(None)) == 0


# -- Integer, Float


@pytest.mark.parametrize("value", [0, -(2**63), 2**63 - 1])
async def test_integers_have_64_bits(connection: AsyncConnection, value: int) -> None:
    await store(connection, number=value)

    assert await stored(connection, "number") == [value]
    assert await found(connection, things.c.number == value) == 1


async def test_an_integer_key_numbers_itself(connection: AsyncConnection) -> None:
    await store(connection, number=5)
    await store(connection, number=6)

    assert await stored(connection, "id") == [1, 2]
    assert (await connection.execute(sa.select(things.c.number + things.c.id).limit(1))).scalar_one() == 6
    assert await found(connection, things.c.number > 5.5) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**63, "a number of 64 came"),
        (1.5, "takes an int, not a value of type float"),
        (True, "takes an int, not a value of type bool"),
        ("1", "takes an int, not a value of type str"),
    ],
)
async def test_what_is_no_64_bit_integer_is_refused(
    connection: AsyncConnection, value: Any, message: str
) -> None:
    with pytest.raises(ColumnValueError, match=message):
        await store(connection, number=value)


async def test_a_number_of_more_than_64_bits_is_refused_in_comparisons(connection: AsyncConnection) -> None:
    with pytest.raises(ColumnValueError, match="64 bits"):
        await found(connection, things.c.number == 10**30)


async def test_floats_are_doubles(connection: AsyncConnection) -> None:
    await store(connection, ratio=0.1 + 0.2)
    await store(connection, ratio=3)

    assert await stored(connection, "ratio") == [0.1 + 0.2, 3.0]
    assert await found(connection, things.c.ratio == 0.1 + 0.2) == 1
    assert await found(connection, things.c.ratio > 2) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1.0"])
async def test_what_is_no_finite_number_is_refused(connection: AsyncConnection, value: Any) -> None:
    with pytest.raises(ColumnValueError, match="Float column"):
        await store(connection, ratio=value)


# -- Numeric


async def test_decimals_are_exact(connection: AsyncConnection) -> None:
    for price in ("0.10", "0.20", "-0.30", "9999999999.99", "19.9"):
        await store(connection, price=Decimal(price))

    assert await stored(connection, "price") == [
        Decimal(x) for x in ("0.1", "0.2", "-0.3", "9999999999.99", "19.9")
    ]
    assert await found(connection, things.c.price == Decimal("0.1")) == 1
    assert await found(connection, things.c.price + Decimal("0.1") == Decimal("0.3")) == 1
    assert await found(connection, 1 - things.c.price == Decimal("0.9")) == 1
    assert await found(connection, things.c.price > 19) == 2
    assert await found(connection, things.c.price.in_([Decimal("19.90"), Decimal(3)])) == 1
    assert await found(connection, things.c.price.between(Decimal(0), Decimal("0.2"))) == 2


async def test_decimals_sort_as_numbers(connection: AsyncConnection) -> None:
    prices = [Decimal(price) for price in ("10.00", "9.99", "-1.50", "0.00", "100.01")]
    for price in prices:
        await store(connection, price=price)

    ordered = (await connection.execute(sa.select(things.c.price).order_by(things.c.price))).scalars().all()

    assert ordered == sorted(prices)


async def test_sums_of_decimals_are_exact(connection: AsyncConnection) -> None:
    await connection.execute(
        things.insert(), [{"price": Decimal("0.01"), "number": number} for number in range(1000)]
    )
    total = sa.func.sum(things.c.price)

    assert (await connection.execute(sa.select(total))).scalar_one() == Decimal("10.00")
    assert (await connection.execute(sa.select(total).having(total == Decimal("10.00")))).scalar() == 10
    by_number = sa.func.sum(things.c.price * things.c.number)
    assert (await connection.execute(sa.select(by_number))).scalar_one() == Decimal("4995.00")
    assert (await connection.execute(sa.select(sa.func.max(2 * things.c.price)))).scalar_one() == Decimal(
        "0.02"
    )
    assert (await connection.execute(sa.select(sa.func.min(-things.c.price)))).scalar_one() == Decimal(
        "-0.01"
    )


async def test_decimals_are_counted_down_exactly_in_the_database(connection: AsyncConnection) -> None:
    await store(connection, price=Decimal("1.00"))
    for _ in range(10):
        spend = (
            things.update()
            .where(things.c.price >= Decimal("0.1"))
            .values(price=things.c.price - Decimal("0.1"))
        )
        assert (await connection.execute(spend)).rowcount == 1

    assert await found(connection, things.c.price == 0) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.1, "takes a Decimal, not a value of type float"),
        ("0.1", "takes a Decimal, not a value of type str"),
        (True, "takes a Decimal, not a value of type bool"),
        (Decimal("0.001"), r"Numeric\(12, 2\) column would round 0.001"),
        (Decimal("1E-100"), "would round"),
        (Decimal(12345678901), "11 digits before the point"),
        (10**10, "11 digits before the point"),
        (Decimal("1E+999999"), "1000000 digits"),
        (Decimal("NaN"), "refuses NaN"),
        (Decimal("Infinity"), "refuses Infinity"),
    ],
)
async def test_decimals_that_one_database_would_round_or_refuse_are_refused(
    connection: AsyncConnection, value: Any, message: str
) -> None:
    with pytest.raises(ColumnValueError, match=message):
        await store(connection, price=value)
    with pytest.raises(ColumnValueError, match=message):
        await found(connection, things.c.price == value)


async def test_zeros_after_the_last_place_do_no_harm(connection: AsyncConnection) -> None:
    await store(connection, price=Decimal("1.500000000000000000000000000000000000"))
    await store(connection, price=Decimal("0E+50"))

    assert await stored(connection, "price") == [Decimal("1.5"), Decimal(0)]


@pytest.mark.parametrize(
    "arithmetic",
    [
        lambda price: price / 2,
        lambda price: price // 2,
        lambda price: price % 2,
        lambda price: 1 / price,
        lambda price: price * Decimal("1.2"),
        lambda price: price * things.c.price,
        lambda price: price * things.c.ratio,
        lambda price: price + things.c.number,
        lambda price: price > things.c.weight,
    ],
)
def test_arithmetic_that_depends_on_the_database_is_refused(arithmetic: Any) -> None:
    with pytest.raises(UsageError):
        arithmetic(things.c.price)


async def test_two_columns_of_one_scale_are_compared_and_added(connection: AsyncConnection) -> None:
    await store(connection, price=Decimal("2.50"))
    doubled = things.alias()

    both = sa.select(things.c.price + doubled.c.price).where(things.c.price <= doubled.c.price)
    assert (await connection.execute(both)).scalars().all() == [Decimal("5.00")]


@pytest.mark.parametrize("digits", [(0, 0), (19, 2), (4, 5), (4, -1)])
def test_a_numeric_of_impossible_digits_is_refused(digits: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match="is not a column type"):
        Numeric(*digits)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_what_raw_sql_left_in_a_numeric_column_is_named(connection: AsyncConnection) -> None:
    await connection.exec_driver_sql("INSERT INTO things (price) VALUES (19.99)")

    with pytest.raises(ColumnValueError, match=r"holds 19\.99, which raw SQL has left there"):
        await stored(connection, "price")


# -- JSON


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"b": 1, "a": [True, None, {"text": "ä€𝄞"}], "": -0.5},
        [2**63 - 1, -(2**63)],
        "text",
        0,
        False,
    ],
)
async def test_json_comes_back_as_it_went(connection: AsyncConnection, value: Any) -> None:
    await store(connection, payload=value)

    (result,) = await stored(connection, "payload")
    assert result == value
    assert type(result) is type(value)


async def test_none_is_null_in_sql_and_not_json(connection: AsyncConnection) -> None:
    await store(connection, payload=None)
    await store(connection, payload=[None])

    assert await found(connection, things.c.payload.is_(None)) == 1
    assert await stored(connection, "payload") == [None, [None]]


async def test_members_of_json_are_compared(connection: AsyncConnection) -> None:
    await store(connection, payload={"kind": "paid", "count": 3, "nested": {"deep": True}})

    payload = things.c.payload
    assert await found(connection, payload["kind"].as_string() == "paid") == 1
    assert await found(connection, payload["count"].as_integer() > 2) == 1
    assert await found(connection, payload[("nested", "deep")].as_boolean()) == 1
    assert await found(connection, payload["absent"].as_string().is_(None)) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [float("nan")]}, "refuses nan"),
        ([float("-inf")], "refuses -inf"),
        ({"a": 2**63}, "one of 64 came"),
        ({"a": "\x00"}, "NUL"),
        ({"a\x00": 1}, "NUL"),
        (["\udfff"], "surrogate"),
        ({1: 2}, "str keys, not a value of type int"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "what JSON has, not a value of type datetime"),
        ((Decimal(1),), "what JSON has, not a value of type Decimal"),
    ],
)
async def test_what_json_cannot_hold_is_refused(
    connection: AsyncConnection, value: Any, message: str
) -> None:
    with pytest.raises(ColumnValueError, match=message):
        await store(connection, payload=value)


# -- Enum


async def test_an_enum_is_stored_by_its_value(connection: AsyncConnection) -> None:
    await store(connection, status=Status.PAID, size="small")

    assert await stored(connection, "status") == [Status.PAID]
    assert await stored(connection, "size") == ["small"]
    raw = await connection.exec_driver_sql("SELECT status FROM things")
    assert raw.scalar_one() == "paid"
    assert await found(connection, things.c.status == Status.PAID) == 1
    assert await found(connection, things.c.status == "paid") == 1


@pytest.mark.parametrize("value", ["gone", Size.SMALL, 1])
async def test_what_is_no_member_is_refused(connection: AsyncConnection, value: Any) -> None:
    with pytest.raises(ColumnValueError, match="one of draft, paid only"):
        await store(connection, status=value)


@pytest.mark.parametrize("members", [Size, (), (1,)])
def test_an_enum_of_something_else_than_strings_is_refused(members: Any) -> None:
    with pytest.raises(ConfigurationError, match="stores strings"):
        Enum(members)


# -- all of them


async def test_every_column_can_be_null(connection: AsyncConnection) -> None:
    await store(connection, **{column.name: None for column in things.columns if not column.primary_key})

    row = (await connection.execute(sa.select(things))).one()
    assert set(row[1:]) == {None}


@pytest.mark.parametrize("column", [column for column in things.columns if column.name != "status"], ids=str)
def test_the_repr_of_a_type_makes_it_again(column: sa.Column[Any]) -> None:
    names = (JSON, Enum, Float, Integer, Numeric, String, UTCDateTime, Uuid)
    again = eval(repr(column.type), {kind.__name__: kind for kind in names})  # noqa: S307

    assert isinstance(again, PortableType)
    assert repr(again) == repr(column.type)


@given(st.decimals(min_value="-9999999999.99", max_value="9999999999.99", places=2))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_decimal_of_the_declared_digits_survives_sqlite(value: Decimal) -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        result = connection.execute(sa.select(sa.bindparam("price", value, Numeric(12, 2)))).scalar_one()

    engine.dispose()
    assert result == value

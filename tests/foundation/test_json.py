import json as stdlib_json
import math
import subprocess
import sys
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from asyncpg.pgproto import pgproto
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, computed_field

from backstay.errors import BackstayError
from backstay.json import JSONDecodeError, JSONEncodeError, dumps, loads

NAN = float("nan")
NOT_FINITE = [NAN, math.inf, -math.inf]
ID = "12345678-1234-5678-1234-567812345678"
# Hypothesis spends seconds on a table of all characters before its first text; these do.
TEXTS = st.text('abc "\\/\x00\x1f\x7fé\u2028😀0123456789null,:[]{}')


class Colour(Enum):
    RED = "red"
    NONE = NAN


class Order(BaseModel):
    order_id: int = Field(1, alias="orderId")
    price: Decimal = Decimal("1.10")
    weight: float = 1.5
    took: timedelta = timedelta(seconds=90)


class Broken(BaseModel):
    @computed_field  # type: ignore[prop-decorator]  # as Pydantic documents it
    @property
    def broken(self) -> int:
        raise RuntimeError("canary")


@dataclass
class Pair:
    left: object
    _hidden: object = None


@dataclass(slots=True)
class Slotted:
    left: object


class Fraction(float):
    pass


class Moment(datetime):
    pass


class NotATime(datetime):
    __hash__ = None  # type: ignore[assignment]  # as pandas.NaT, it is nobody's equal

    def __ne__(self, other: object) -> bool:
        return True


class Size(StrEnum):
    SMALL = "s"


class Level(IntEnum):
    LOW = 1


Row = namedtuple("Row", "a b")  # noqa: PYI024  # drivers return such rows


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05+00:00"'),
        (Moment(2026, 1, 2, 3, 4, 5), '"2026-01-02T03:04:05"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (time(3, 4), '"03:04:00"'),
        (timedelta(days=1, seconds=90), '"P1DT1M30S"'),
        (uuid.UUID(ID), f'"{ID}"'),
        (pgproto.UUID(ID), f'"{ID}"'),
        (Colour.RED, '"red"'),
        (Size.SMALL, '"s"'),
        (Level.LOW, "1"),
        (Decimal("1.10"), '"1.10"'),
        ({3, 1, 2}, "[1,2,3]"),
        (frozenset({"b", 1}), '["b",1]'),
        (PurePosixPath("/a"), '"/a"'),
        (Path("a"), '"a"'),
        (Pair(1), '{"left":1}'),
        (Pair(None, NAN), '{"left":null}'),
        (Slotted(None), '{"left":null}'),
        (Order(), '{"orderId":1,"price":"1.10","weight":1.5,"took":"PT1M30S"}'),
        ({"orders": [Order()]}, '{"orders":[{"orderId":1,"price":"1.10","weight":1.5,"took":"PT1M30S"}]}'),
        (Row(1, None), "[1,null]"),
        ((1, 2), "[1,2]"),
        (OrderedDict(b=None, a=2), '{"b":null,"a":2}'),
        (Fraction(0.5), "0.5"),
        ([None, Fraction(0.5), "null", Colour.RED, Decimal(1)], '[null,0.5,"null","red","1"]'),
        (2**64 - 1, "18446744073709551615"),
        (-(2**63), "-9223372036854775808"),
        ("é\u2028", '"é\u2028"'),
    ],
)
def test_a_value_has_one_json_form(value: object, encoded: str) -> None:
    assert dumps(value).decode() == encoded


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (np.float64(1.5), "1.5"),
        (np.float32(0.1), "0.1"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.bool_(True), "true"),
        (np.datetime64("2026-01-02T03:04:05.000006"), '"2026-01-02T03:04:05.000006"'),
        (np.str_("a"), '"a"'),
        (np.array(5), "5"),
        (np.array([[1, 2], [3, 4]]).T, "[[1,3],[2,4]]"),
        (np.array([1, 2], dtype=">i4"), "[1,2]"),
        (np.array(1, dtype=">i4"), "1"),
        (np.array([1.5], dtype="f2"), "[1.5]"),
        (np.zeros((2, 0)), "[[],[]]"),
        (np.array(["a"]), '["a"]'),
        (np.array([None, 1, Decimal("2.0")], dtype=object), '[null,1,"2.0"]'),
        (np.array(["2026-01-02"], dtype="M8[D]"), '["2026-01-02T00:00:00"]'),
        ({"none": None, "array": np.array([1, 2])}, '{"none":null,"array":[1,2]}'),
    ],
)
def test_numpy_values_are_encoded(value: object, encoded: str) -> None:
    assert dumps(value).decode() == encoded


def test_numpy_is_not_imported_for_others() -> None:
    code = "import sys; from backstay.json import dumps; dumps({'a': {1}}); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("number", NOT_FINITE)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda number: number,
        lambda number: {"a": [None, {"b": number}]},
        Decimal,
        lambda number: {"a": Decimal(number)},
        lambda number: {number},
        Fraction,
        lambda number: Order(weight=number),
        lambda number: [None, Order.model_construct(weight=number)],
        lambda number: Pair((number,)),
        Slotted,
        lambda number: OrderedDict(a=number),
        lambda number: Row(1, number),
        lambda number: np.array([1, number]),
        lambda number: np.array(number, dtype="f2"),
        np.float32,
        lambda number: {"a": np.float64(number)},
        lambda number: np.array([number, None], dtype=object),
        lambda number: Enum("Odd", {"ONE": number}).ONE,  # type: ignore[attr-defined]  # made on the fly
    ],
)
def test_nan_and_infinity_are_refused_wherever_they_are(number: float, wrap: Any) -> None:
    with pytest.raises(JSONEncodeError, match="JSON has no NaN and no Infinity, use None"):
        dumps(wrap(number))


def test_an_attribute_that_was_added_to_a_dataclass_is_seen() -> None:
    """Because orjson writes it too."""
    pair = Pair(1)
    pair.added = NAN  # type: ignore[attr-defined]  # that is the point
    with pytest.raises(JSONEncodeError, match=r"Cannot encode added as JSON"):
        dumps(pair)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda children: st.lists(children) | st.dictionaries(TEXTS, children),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_read_back_equals_what_was_written(value: object) -> None:
    assert loads(dumps(value)) == value
    assert stdlib_json.loads(dumps(value)) == value


def _holds_not_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Pair):
        return _holds_not_finite(value.left)
    children = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    )
    return any(map(_holds_not_finite, children))


@given(
    st.recursive(
        st.none() | st.floats() | st.sampled_from(["null", "a", 1, uuid.UUID(ID), date(2026, 1, 1)]),
        lambda children: (
            st.lists(children, max_size=4)
            | st.tuples(children)
            | st.dictionaries(st.sampled_from(["a", "null", "c"]), children)
            | children.map(Pair)
            | st.sets(st.floats() | st.none(), max_size=2)
        ),
        max_leaves=10,
    )
)
def test_a_value_is_refused_exactly_when_it_holds_nan_or_infinity(value: object) -> None:
    """The check runs only on texts with `null`; it must neither miss one nor refuse a None."""
    if _holds_not_finite(value):
        with pytest.raises(JSONEncodeError):
            dumps(value)
    else:
        dumps(value)


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"rows": [{"price": 1.5}, {"price": NAN}]}, "rows[1].price", "NaN"),
        ([{"a b": {"c": 2**64}}], "[0]['a b'].c", "does not fit into 64 bits"),
        (-(2**63) - 1, "", "does not fit into 64 bits"),
        ({"order": Order(orderId=2**70)}, "order.orderId", "does not fit into 64 bits"),
        ({"name": "\ud800"}, "name", "lone surrogate"),
        ({"\ud800": 1}, "", "lone surrogate"),
        ({"a": {1: 2}}, "a", "a key that is not a plain str"),
        ({"raw": b"canary"}, "raw", "no form for bytes"),
        ([memoryview(b"canary")], "[0]", "no form for memoryview"),
        ({"secret": SecretStr("canary")}, "secret", "SecretStr has no JSON form"),
        ([object()], "[0]", "builtins.object has no JSON form"),
        ([NotATime(2026, 1, 1)], "[0]", "not a time"),
        ([np.datetime64("NaT", "s")], "[0]", "not a time"),
        ([np.datetime64("2026-01-01T00:00:00.000000001")], "[0]", "finer than a microsecond"),
        ([np.array([1j])], "[0]", "complex128 has no JSON form"),
        ([np.longdouble(1)], "[0]", "has no JSON form"),
        ([np.timedelta64(1, "s")], "[0]", "has no JSON form"),
        ([np.ma.array([1.0], mask=[True])], "[0]", "MaskedArray has no JSON form"),
        ([np.bytes_(b"x")], "[0]", "has no JSON form"),
        ([time(1, tzinfo=UTC)], "[0]", "tzinfo"),
        ([Broken()], "[0]", "taking it apart failed with"),
    ],
)
def test_an_error_names_the_path_and_the_reason(value: object, path: str, reason: str) -> None:
    with pytest.raises(JSONEncodeError) as caught:
        dumps(value)

    assert caught.value.path == path
    assert reason in caught.value.reason
    assert "canary" not in str(caught.value)
    assert isinstance(caught.value, BackstayError)


def test_a_long_key_is_shortened_in_the_path() -> None:
    with pytest.raises(JSONEncodeError) as caught:
        dumps({"k" * 1000: NAN})
    assert len(caught.value.path) < 80


def _deep_lists() -> object:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


def _circle() -> object:
    circle: dict[str, object] = {}
    circle["again"] = [circle]
    return circle


def _deep_conversions() -> object:
    value: object = 1
    for _ in range(300):
        value = Row(value, 1)
    return value


@pytest.mark.parametrize("make", [_deep_lists, _circle, _deep_conversions])
def test_deep_nesting_is_an_error_and_not_a_crash(make: Any) -> None:
    with pytest.raises(JSONEncodeError, match="nested deeper than 254 levels, or contains itself"):
        dumps(make())


def test_a_value_that_cannot_be_taken_apart_twice_still_gives_an_error() -> None:
    class Once(dict[str, object]):
        pass

    @dataclass
    class Moody:
        left: object

        def __getattribute__(self, name: str) -> Any:
            if name == "left":
                raise RuntimeError
            return super().__getattribute__(name)

    with pytest.raises(JSONEncodeError, match="Cannot encode the value as JSON"):
        dumps(Moody(b"bytes"))
    assert dumps(Once(a=1)) == b'{"a":1}'


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("18446744073709551616", "does not fit into 64 bits", 0),
        ("[1, -9223372036854775809]", "does not fit into 64 bits", 4),
        ('{"é":"12345678901234567890123","a":99999999999999999999}', "does not fit into 64 bits", 35),
        ('["\\"", 99999999999999999999]', "does not fit into 64 bits", 7),
        ("1e999", "infinity", 0),
        ("-1e999", "infinity", 0),
        ("9" * 400, "infinity", 0),
        ("[NaN]", "unexpected character", 1),
        ("[Infinity]", "unexpected character", 1),
        ('["\\ud800"]', "surrogate", 2),
        ("\ud800", "UTF-8", 0),
        (b"\xff", "UTF-8", 0),
        (b"\xef\xbb\xbf1", "BOM", 0),
        ("[1]".encode("utf-16"), "", 0),
        ("[" * 100_000, "depth limit", 1025),
        ("", "empty", 0),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(
    text: str | bytes, reason: str, position: int
) -> None:
    with pytest.raises(JSONDecodeError) as caught:
        loads(text)

    assert reason in caught.value.reason
    assert caught.value.position == position
    assert isinstance(caught.value, BackstayError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        (bytearray(b'"12345678901234567890123"'), "12345678901234567890123"),
        (memoryview(b"[12345678901234567890123.5]"), [12345678901234567890123.5]),
        ("[12345678901234567890123e-3]", [12345678901234567890123e-3]),
        ("[0.12345678901234567890123, 1]", [0.12345678901234567890123, 1]),
        ('{"\\"99999999999999999999": "\\\\"}', {'"99999999999999999999': "\\"}),
        ('"\\u0000"', "\0"),
    ],
)
def test_many_digits_that_lose_nothing_are_read(text: str | bytes, value: object) -> None:
    assert loads(text) == value


@given(st.lists(st.integers(-(2**66), 2**66) | TEXTS | st.floats(allow_nan=False, allow_infinity=False)))
def test_integers_are_read_exactly_or_refused(values: list[object]) -> None:
    text = stdlib_json.dumps(values)
    fits = all(-(2**63) <= value < 2**64 for value in values if isinstance(value, int))
    if fits:
        read = loads(text)
        assert read == values
        assert [type(value) for value in _iterate(read)] == [type(value) for value in values]
    else:
        with pytest.raises(JSONDecodeError, match="does not fit into 64 bits"):
            loads(text)


def _iterate(value: object) -> Iterator[object]:
    assert isinstance(value, list)
    return iter(value)


def test_a_decode_error_does_not_carry_the_text() -> None:
    with pytest.raises(JSONDecodeError) as caught:
        loads('{"password": canary}')

    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None

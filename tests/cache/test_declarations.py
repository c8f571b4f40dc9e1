"""What `@cached` and `@invalidates` refuse where they are written, and what keys are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field
from pydantic.alias_generators import to_camel
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backstay.cache._key_values import as_key_part, as_name
from backstay.cache._payloads import CorruptPayloadError, Payloads, UnfaithfulValueError
from backstay.cache._templates import Template
from backstay.cache.cached import cached
from backstay.cache.forgetting import invalidates
from backstay.db.sources import row
from backstay.errors import ConfigurationError, UsageError

UUID_7 = UUID("01936f7e-0000-7000-8000-000000000007")


class Tables(DeclarativeBase):
    metadata = MetaData()


class Line(Tables):
    __tablename__ = "declared_lines"
    order_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


async def find(session: AsyncSession, order_id: int, number: int = 1) -> str:
    return ""


def declare(template: str = "line:{order_id}:{number}", function: Any = find, **options: Any) -> Any:
    return cached(template, **{"ttl": "1h", **options})(function)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"template": "line:{order}:{number}"}, "no such parameter .* Did you mean 'order_id'"),
            ({"template": "line:{order_id}"}, "leaves out number"),
            ({"template": "line:{order_id}{number}"}, "needs a ':' between"),
            ({"template": "line:{order_id!r}:{number}"}, "a field is a parameter"),
            ({"template": "line:{order_id[0]}:{number}"}, "a field is a parameter"),
            ({"template": "line:{}:{number}"}, "a field is a parameter"),
            ({"template": "line:{order_id:shout}:{number}"}, "there are lower, upper, hash"),
            ({"template": "line:{order_id"}, "cannot be read"),
            ({"template": "line:{session}:{order_id}:{number}"}, "no such parameter"),
            ({"ttl": "0"}, "no span of time"),
            ({"ttl": "0s"}, "longer than nothing"),
            ({"ttl": "soon"}, "no span of time"),
            ({"ttl": timedelta(0)}, "longer than nothing"),
            ({"ttl": 3600}, "no span of time"),
            ({"jitter": 1}, "a share of the ttl"),
            ({"reads": [object()]}, "models and rows of them"),
            ({"reads": ["declared_lines"]}, "models and rows of them"),
            ({"reads": [row(Line, "order_id", "line")]}, "has no parameter line"),
            ({"soft_ttl": "1m", "reads": [row(Line, "order_id", "number")]}, "would serve what it knows"),
            ({"soft_ttl": "2h"}, "shorter than its `ttl`"),
        ],
    )
    def test_a_declaration_that_cannot_work(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            declare(**options)

    def test_a_function_that_says_not_what_it_returns(self) -> None:
        async def silent(session: AsyncSession):  # type: ignore[no-untyped-def]  # noqa: ANN202  it is about that
            return 1

        with pytest.raises(ConfigurationError, match="does not say what it returns"):
            declare("silent", silent)

    def test_a_function_that_returns_rows(self) -> None:
        async def rows(session: AsyncSession) -> list[Line]:
            return []

        with pytest.raises(ConfigurationError, match="cannot be kept as JSON"):
            declare("rows", rows)

    def test_a_function_that_takes_anything(self) -> None:
        async def open_ended(session: AsyncSession, *numbers: int) -> int:
            return 1

        with pytest.raises(ConfigurationError, match="takes \\*numbers"):
            declare("open", open_ended)

    def test_a_function_with_two_sessions(self) -> None:
        async def two(session: AsyncSession, other: AsyncSession) -> int:
            return 1

        with pytest.raises(ConfigurationError, match="two sessions, session and other"):
            declare("two", two)

    @pytest.mark.parametrize("template", ["price:{sku}", "price:{self}:{sku}"])
    def test_a_method_that_says_not_whose_it_is(self, template: str) -> None:
        async def price(self: object, sku: str) -> int:
            return 1

        with pytest.raises(ConfigurationError, match="does not say whose"):
            declare(template, price)

    @pytest.mark.parametrize(
        ("targets", "message"),
        [((), "names no cached function"), (("line:{order}",), "no such parameter")],
    )
    def test_an_invalidation_that_cannot_work(self, targets: tuple[str, ...], message: str) -> None:
        async def change(session: AsyncSession, order_id: int) -> None: ...

        with pytest.raises(ConfigurationError, match=message):
            invalidates(*targets)(change)


class Color(Enum):
    RED = "red"
    ONE = 1


class Point(BaseModel):
    x: int


class TestKeys:
    VALUES: tuple[object, ...] = (
        *(1, "1", True, "true", None, "None", "none", "", 1.0, Decimal(1), b"1", -1, "-1"),
        *("a:b", "a", "b", "a/b", "a|b", "*", ":", "'", "ü", "\ud800", "a b", "a%3Ab"),
        *((1,), ("1",), ("1,2",), (1, 2), ("a", "b"), "('a','b')", [], frozenset({1, 2}), {"1"}),
        *(UUID_7, str(UUID_7), UUID_7.hex, Color.RED, Color.ONE, "red", Point(x=1), timedelta(1)),
        *(date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01", datetime(2026, 1, 1)),
    )

    def test_no_two_values_meet(self) -> None:
        for one, other in combinations(self.VALUES, 2):
            is_list_or_tuple = isinstance(one, list | tuple) and isinstance(other, list | tuple)
            if not (is_list_or_tuple and list(one) == list(other)):  # type: ignore[call-overload]  # it is one
                assert as_key_part(one) != as_key_part(other), (one, other)

    def test_no_value_can_pretend_to_be_two(self) -> None:
        template = Template("{a}:{b}", parameters=("a", "b"), of="a test")
        keys = {template.key({"a": a, "b": b}) for a in self.VALUES for b in self.VALUES}
        assert len(keys) == len({as_key_part(value) for value in self.VALUES}) ** 2

    def test_sets_are_the_same_in_every_order(self) -> None:
        assert as_key_part({"b", "a"}) == as_key_part({"a", "b"})

    def test_a_value_without_a_form_is_refused(self) -> None:
        with pytest.raises(UsageError, match="cannot be part of a cache key"):
            as_key_part(object())

    @pytest.mark.parametrize(
        ("one", "other"),
        [(7, "7"), (UUID_7, str(UUID_7)), (UUID_7, UUID_7.hex), (Color.RED, "red"), (True, "true")],
    )
    def test_the_name_of_a_value_knows_no_type(self, one: object, other: object) -> None:
        assert as_name(one) == as_name(other)

    def test_fields_may_be_attributes_and_be_changed(self) -> None:
        template = Template(
            "p:{point.x}:{name:lower}:{token:hash}", parameters=("point", "name", "token"), of=""
        )
        key = template.key({"point": Point(x=3), "name": "ADA", "token": "secret"})
        assert key.startswith("p:3:'ada':'")
        assert "secret" not in key


@dataclass
class Pair:
    left: int
    right: tuple[str, ...]


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    first_name: str
    born: date

    @computed_field  # type: ignore[prop-decorator]  # Pydantic's
    @property
    def is_known(self) -> bool:
        return True


class Secretive(BaseModel):
    token: SecretStr


class Partial(BaseModel):
    shown: int
    hidden: int = Field(default=0, exclude=True)


class TestPayloads:
    @pytest.mark.parametrize(
        ("returns", "value"),
        [
            (int | None, None),
            (dict[str, Decimal], {"a": Decimal("1.50")}),
            (Pair, Pair(1, ("a",))),
            (list[Camel], [Camel(firstName="Ada", born=date(1815, 12, 10))]),
            (bytes, b"abc"),
            (set[UUID], {UUID_7}),
            (datetime, datetime(2026, 1, 1, tzinfo=UTC)),
            (Mapping[str, int], {"a": 1}),
        ],
    )
    def test_what_goes_in_comes_out(self, returns: Any, value: object) -> None:
        payloads = Payloads(returns, function="f")
        assert payloads.decode(payloads.encode(value)) == value

    @pytest.mark.parametrize(
        ("returns", "value"),
        [
            (Secretive, Secretive(token=SecretStr("secret"))),
            (Partial, Partial(shown=1, hidden=2)),
            (Point, Secretive(token=SecretStr("x"))),
            (float, float("nan")),
            (int, "7"),
            (bytes, b"\xff"),
        ],
    )
    def test_what_would_come_out_otherwise_is_not_stored(self, returns: Any, value: object) -> None:
        with pytest.raises(UnfaithfulValueError):
            Payloads(returns, function="f").encode(value)

    @pytest.mark.parametrize("payload", [b"", b"{", b"\x80\x04pickle", b'{"y": 1}', b"null"])
    def test_foreign_bytes_are_no_value(self, payload: bytes) -> None:
        with pytest.raises(CorruptPayloadError):
            Payloads(Point, function="f").decode(payload)

    def test_another_shape_is_another_key(self) -> None:
        def shape(kind: type) -> type[BaseModel]:
            class Made(BaseModel):
                value: kind  # type: ignore[valid-type]  # made for each kind

            return Made

        fingerprints = {Payloads(shape(kind), function="f").fingerprint for kind in (int, str)}
        assert len(fingerprints) == 2
        assert Payloads(int, function="f").fingerprint != Payloads(int, function="g").fingerprint

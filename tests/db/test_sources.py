"""What a reader declares to read, and how it names one row: the same as whoever writes it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column

from backstay.db import Model, row
from backstay.db._keys import encode_key, encoder_of
from backstay.db.types import Integer, String, Uuid
from backstay.errors import ConfigurationError
from backstay.transaction import Source, row_tag, source_of, table_tag


class Base(Model):
    __abstract__ = True
    metadata = sa.MetaData()


class Customer(Base):
    id: Mapped[UUID] = mapped_column(primary_key=True)


class InvoiceLine(Base):
    invoice_id: Mapped[int] = mapped_column(primary_key=True)
    line_no: Mapped[str] = mapped_column(primary_key=True)


class Tariff(Base):
    amount: Mapped[float] = mapped_column(primary_key=True)


class Beast(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "beast"}  # noqa: RUF012


class Panther(Beast):
    __tablename__ = "panthers"
    id: Mapped[int] = mapped_column(ForeignKey("beasts.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "panther"}  # noqa: RUF012


class Renamed(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str]
    __mapper_args__ = {"primary_key": ["code"]}  # noqa: RUF012


left = sa.Table("lefts", Base.metadata, sa.Column("id", sa.Integer, primary_key=True))
right = sa.Table(
    "rights",
    Base.metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("left_id", ForeignKey("lefts.id")),
)


class Pair(Base):
    __table__ = sa.join(left, right)
    __mapper_args__ = {"primary_key": [left.c.id], "exclude_properties": {right.c.number}}  # noqa: RUF012


ONE = UUID(int=1)


class TestSources:
    def test_a_model_stands_for_all_of_its_rows(self) -> None:
        source = source_of(Customer)
        assert source.parameters == ()
        assert source.tables() == ("customers",)
        assert source.tags({}) == ("customers", "*")
        assert repr(source) == "Customer"

    def test_a_row_stands_for_itself(self) -> None:
        source = row(Customer, "customer_id")
        assert source_of(source) is source
        assert source.parameters == ("customer_id",)
        assert source.tables() == ("customers",)
        assert source.tags({"customer_id": ONE}) == (f"customers:{ONE.hex}", "customers:*", "*")
        assert repr(source) == "row(Customer, 'customer_id')"

    def test_a_row_may_be_found_by_several_columns(self) -> None:
        source = row(InvoiceLine, "invoice_id", "line")
        assert source.tags({"invoice_id": "7", "line": "a,b"})[0] == "invoice_lines:7,a%2Cb"

    def test_a_table_stands_for_all_of_its_rows(self) -> None:
        table = sa.Table("Links", sa.MetaData(), sa.Column("id", sa.Integer), schema="shop")
        source = source_of(table)
        assert source.tables() == ("links",)
        assert source.tags({}) == ("links", "*")
        assert source.parameters == ()

    def test_inherited_tables_belong_to_a_row_and_so_do_those_of_heirs(self) -> None:
        """A query for beasts reads panthers as well."""
        assert row(Panther, "panther_id").tags({"panther_id": 7}) == (
            "beasts:7",
            "panthers:7",
            "beasts:*",
            "panthers:*",
            "*",
        )
        assert set(source_of(Beast).tables()) == {"beasts", "panthers"}
        assert "panthers:7" in row(Beast, "beast_id").tags({"beast_id": 7})

    def test_an_heir_that_comes_later_is_found(self) -> None:
        class Plant(Base):
            id: Mapped[int] = mapped_column(primary_key=True)
            kind: Mapped[str]
            __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "plant"}  # noqa: RUF012

        source = source_of(Plant)
        assert source.tables() == ("plants",)

        class Tree(Plant):
            __tablename__ = "trees"
            id: Mapped[int] = mapped_column(ForeignKey("plants.id"), primary_key=True)
            __mapper_args__ = {"polymorphic_identity": "tree"}  # noqa: RUF012

        assert source.tables() == ("plants", "trees")

    @pytest.mark.parametrize("value", [None, "seven", 7.5, object()])
    def test_what_can_be_no_key_depends_on_the_whole_table(self, value: object) -> None:
        source = row(InvoiceLine, "invoice_id", "line")
        assert source.tags({"invoice_id": value, "line": "a"}) == ("invoice_lines", "*")

    def test_every_source_is_one(self) -> None:
        sources = [row(Customer, "customer_id"), source_of(Customer), source_of(sa.Table("t", sa.MetaData()))]
        assert all(isinstance(source, Source) for source in sources)


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "message", "hint"),
        [
            (lambda: row(Customer), "found by id, and row() was given 0", 'row(Customer, "customer_id")'),
            (
                lambda: row(InvoiceLine, "invoice_id"),
                "found by invoice_id, line_no",
                'row(InvoiceLine, "invoice_id", "line_no")',
            ),
            (lambda: row(Customer, "user-id"), "takes names of parameters", 'row(Customer, "customer_id")'),
            (lambda: row(Customer, 7), "takes names of parameters", 'row(Customer, "customer_id")'),  # type: ignore[arg-type]
            (lambda: row(Tariff, "amount"), "Tariff.amount is a Float", "reads=[Tariff]"),
            (lambda: row(Renamed, "code"), "not found by the primary key", "reads=[Renamed]"),
            (lambda: row(Pair, "pair_id"), "not found by the primary key", "reads=[Pair]"),
            (lambda: row(dict, "id"), "dict has no table", "class User(Model)"),
            (lambda: source_of(Base), "Base has no table", "class User(Model)"),
            (lambda: source_of("users"), "not 'users'", "reads=[User]"),  # type: ignore[arg-type]
        ],
    )
    def test_they_say_what_to_write(self, make: Any, message: str, hint: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert message in str(caught.value)
        assert hint in (caught.value.hint or "")


class Colour(StrEnum):
    RED = "red"


def encoded(kind: sa.types.TypeEngine[Any], value: object) -> str | None:
    encode = encoder_of(sa.Column("value", kind))
    assert encode is not None
    return encode(value)


class TestKeys:
    """The type of the column decides."""

    @pytest.mark.parametrize("kind", [Integer(), sa.Integer(), sa.BigInteger(), sa.SmallInteger()])
    @pytest.mark.parametrize(
        ("value", "key"), [(7, "7"), ("7", "7"), (" 7", "7"), (-7, "-7"), (True, "1"), ("x", None)]
    )
    def test_integers(self, kind: Any, value: object, key: str | None) -> None:
        assert encoded(kind, value) == key

    @pytest.mark.parametrize("kind", [Uuid(), sa.Uuid(), sa.Uuid(as_uuid=False), postgresql.UUID()])
    @pytest.mark.parametrize(
        ("value", "key"), [(ONE, ONE.hex), (str(ONE), ONE.hex), (ONE.hex, ONE.hex), (7, None)]
    )
    def test_uuids(self, kind: Any, value: object, key: str | None) -> None:
        assert encoded(kind, value) == key

    @pytest.mark.parametrize("kind", [String(), String(20), sa.String(), sa.Text()])
    @pytest.mark.parametrize(
        ("value", "key"),
        [
            ("a", "a"),
            ("7", "7"),
            (7, None),
            ("", ""),
            ("*", "%2A"),
            ("%2A", "%252A"),
            ("\ud800", "%ED%A0%80"),
            (Colour.RED, "red"),
        ],
    )
    def test_text(self, kind: Any, value: object, key: str | None) -> None:
        assert encoded(kind, value) == key

    @pytest.mark.parametrize(
        "kind",
        [sa.CHAR(3), postgresql.CITEXT(), sa.String(collation="NOCASE"), sa.Enum("a"), sa.Float(), sa.Date()],
    )
    def test_types_that_may_call_two_texts_equal_have_no_key(self, kind: Any) -> None:
        assert encoder_of(sa.Column("value", kind)) is None

    def test_a_type_of_somebody_else_has_no_key(self) -> None:
        class Slug(String):
            """Might write something else than it was given."""

        assert encoder_of(sa.Column("value", Slug())) is None

    def test_no_two_keys_collide(self) -> None:
        pieces = ["", "a", ",", "*", "%", ":", "%2C", "7", "a,", ",a", "\u00e9", "%C3%A9"]
        encode = encoder_of(sa.Column("value", String()))
        assert encode is not None
        keys = [encode_key((one, two), (encode, encode)) for one in pieces for two in pieces]
        assert None not in keys
        assert len(set(keys)) == len(keys)
        assert "*" not in keys

    def test_a_row_is_never_taken_for_unknown_rows_or_for_a_table(self) -> None:
        tables = [table_tag(name) for name in ("a", "a:b", "a:*", "*", "\u00e9")]
        assert len(set(tables)) == len(tables)
        assert row_tag(table_tag("a"), "b") not in tables
        assert not {"*", "a:*"} & set(tables)

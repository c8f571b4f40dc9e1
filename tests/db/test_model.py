from __future__ import annotations

import enum
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, LiteralString, NewType, TypedDict

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    Mapped,
    backref,
    configure_mappers,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)

from backstay.db.model import NAMING_CONVENTION, Model, RelationshipNotLoadedError, TimestampMixin, new_id
from backstay.db.types import (
    JSON,
    ColumnValueError,
    Float,
    Integer,
    JSONValue,
    Numeric,
    String,
    UTCDateTime,
    Uuid,
)
from backstay.errors import ConfigurationError

Sku = NewType("Sku", str)


class Base(Model):
    __abstract__ = True
    metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)


class Status(enum.StrEnum):
    DRAFT = "draft"
    PAID = "it's paid"


class Details(TypedDict):
    note: str


class Shelf(Base):
    __tablename__ = "categories"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True)
    products: Mapped[list[Gadget]] = relationship(back_populates="category")


class Gadget(TimestampMixin, Base):
    __tablename__ = "products"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(index=True)
    secret: Mapped[str | None]
    price: Mapped[Decimal] = mapped_column(
        Numeric(12, 2), sa.CheckConstraint("price >= 0", name="price"), default=Decimal(0)
    )
    ratio: Mapped[float | None]
    status: Mapped[Status] = mapped_column(default=Status.DRAFT)
    size: Mapped[Literal["small", "large"] | None]
    details: Mapped[Details | None]
    numbers: Mapped[list[int] | None]
    anything: Mapped[dict[str, JSONValue] | None]
    whatever: Mapped[JSONValue | None]
    sold_at: Mapped[datetime | None]
    sku: Mapped[Sku | None]
    stock: Mapped[int] = mapped_column(server_default="7")
    doubled: Mapped[int] = mapped_column(sa.Computed("stock * 2", persisted=True))
    category_id: Mapped[int | None] = mapped_column(sa.ForeignKey("categories.id"))
    category: Mapped[Shelf | None] = relationship(back_populates="products")


class Order(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    lines: Mapped[list[OrderLine]] = relationship(backref="order", order_by="OrderLine.id")
    notes: Mapped[list[Note]] = relationship(lazy="selectin", backref=backref("order", lazy="joined"))
    plain: Mapped[list[Note]] = relationship(lazy=True, viewonly=True)


class OrderLine(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(sa.ForeignKey(Order.id))


class Note(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(sa.ForeignKey(Order.id))


@pytest.fixture
async def session(empty_engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(empty_engine, expire_on_commit=False) as session:
        yield session


class Statements:
    """Counts what is sent to the database."""

    def __init__(self, session: AsyncSession) -> None:
        self.count = 0
        bind: Any = session.bind
        sa.event.listen(bind.sync_engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self.count += 1


def table_of(model: type[Model]) -> sa.Table:
    assert isinstance(model.__table__, sa.Table)
    return model.__table__


# -- annotations


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("id", Uuid()),
        ("name", String()),
        ("price", Numeric(12, 2)),
        ("ratio", Float()),
        ("details", JSON()),
        ("numbers", JSON()),
        ("anything", JSON()),
        ("whatever", JSON()),
        ("sold_at", UTCDateTime()),
        ("stock", Integer()),
        ("sku", String()),
    ],
)
def test_an_annotation_becomes_its_portable_type(column: str, expected: object) -> None:
    assert repr(Gadget.__table__.c[column].type) == repr(expected)


async def test_every_annotated_value_comes_back(session: AsyncSession) -> None:
    now = datetime.now(UTC)
    product = Gadget(
        name="rope",
        price=Decimal("1.50"),
        ratio=0.5,
        status=Status.PAID,
        size="large",
        details={"note": "x"},
        numbers=[1, 2],
        anything={"a": None},
        sold_at=now,
    )
    session.add(product)
    await session.commit()
    session.expunge_all()

    again = (await session.scalars(sa.select(Gadget))).one()
    assert again is not product
    assert (again.price, again.ratio, again.status, again.size) == (
        Decimal("1.50"),
        0.5,
        Status.PAID,
        "large",
    )
    assert type(again.status) is Status
    assert (again.details, again.numbers, again.anything, again.sold_at) == (
        {"note": "x"},
        [1, 2],
        {"a": None},
        now,
    )


def test_a_decimal_without_digits_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"Coin\.worth is a Decimal without its digits") as caught:

        class Coin(Base):
            id: Mapped[int] = mapped_column(primary_key=True)
            worth: Mapped[Decimal]

    assert caught.value.hint is not None
    assert "mapped_column(Numeric(12, 2))" in caught.value.hint


def test_a_server_default_of_a_numeric_is_refused_because_sqlite_stores_cents() -> None:
    with pytest.raises(ConfigurationError, match=r"coins\.worth meets a bare number"):

        class DefaultedCoin(Base):
            __tablename__ = "coins"
            id: Mapped[int] = mapped_column(primary_key=True)
            worth: Mapped[Decimal] = mapped_column(Numeric(12, 2), server_default="0")


def test_a_check_of_a_numeric_against_a_bare_number_is_refused_because_sqlite_stores_cents() -> None:
    with pytest.raises(ConfigurationError, match=r"notes_of_money\.worth meets a bare number"):

        class CheckedNote(Base):
            __tablename__ = "notes_of_money"
            __table_args__ = (sa.CheckConstraint("worth < 100", name="worth"),)
            id: Mapped[int] = mapped_column(primary_key=True)
            worth: Mapped[Decimal] = mapped_column(Numeric(12, 2))


def test_an_annotation_that_no_column_can_have_is_sqlalchemys_to_refuse() -> None:
    with pytest.raises(ArgumentError, match="Could not locate SQLAlchemy Core type"):

        class Either(Base):
            id: Mapped[int] = mapped_column(primary_key=True)
            value: Mapped[LiteralString]


# -- names


@pytest.mark.parametrize(
    ("class_name", "table"),
    [
        ("User", "users"),
        ("OrderLine", "order_lines"),
        ("Category", "categories"),
        ("Day", "days"),
        ("Address", "addresses"),
        ("Batch", "batches"),
        ("HTTPLog", "http_logs"),
        ("Sha256Sum", "sha256_sums"),
    ],
)
def test_a_table_is_named_after_its_class_in_the_plural(class_name: str, table: str) -> None:
    fields = {"__annotations__": {"id": Mapped[int]}, "id": mapped_column(primary_key=True)}
    one_off = type("OneOff", (Model,), {"__abstract__": True, "metadata": sa.MetaData()})

    assert type(class_name, (one_off,), {"__module__": f"names.{table}", **fields}).__table__.name == table  # type: ignore[attr-defined]


def test_an_explicit_table_name_or_table_wins() -> None:
    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Legacy(Base):
        __table__ = sa.Table("legacy", Base.metadata, sa.Column("id", Integer(), primary_key=True))

    assert table_of(Person).name == "people"
    assert table_of(Legacy).name == "legacy"


def test_a_subclass_of_a_table_shares_it_unless_it_names_its_own() -> None:
    class Animal(Base):
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012

    class Cat(Animal):
        __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012

    class Dog(Animal):
        __tablename__ = "dogs"
        id: Mapped[int] = mapped_column(sa.ForeignKey(Animal.id), primary_key=True)
        __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012

    assert Cat.__table__ is Animal.__table__
    assert table_of(Dog).name == "dogs"


def test_every_constraint_has_a_name() -> None:
    table = table_of(Gadget)
    dialect = sa.create_engine("sqlite://").dialect
    ddl = str(sa.schema.CreateTable(table).compile(dialect=dialect))

    for name in (
        "pk_products",
        "fk_products_category_id_categories",
        "ck_products_price",
        "ck_products_status",
    ):
        assert f"CONSTRAINT {name} " in ddl
    assert [index.name for index in table.indexes] == ["ix_products_name"]
    assert "CONSTRAINT uq_categories_name " in str(
        sa.schema.CreateTable(table_of(Shelf)).compile(dialect=dialect)
    )


async def test_the_database_itself_refuses_what_is_no_member_of_an_enum(session: AsyncSession) -> None:
    raw = sa.text("UPDATE products SET status = 'gone'")
    session.add(Gadget(name="rope"))
    await session.flush()

    with pytest.raises(IntegrityError, match="ck_products_status"):
        await session.execute(raw)


# -- the repr


def test_the_repr_shows_the_primary_key_only() -> None:
    key = uuid.UUID(int=1)

    assert repr(Gadget(id=key, name="rope", secret="hunter2")) == f"Gadget(id={key!r})"
    assert repr(Gadget(name="rope")) == "Gadget(id=None)"


async def test_the_repr_of_an_expired_row_asks_the_database_nothing(session: AsyncSession) -> None:
    category = Shelf(name="deck")
    session.add(category)
    await session.flush()
    session.expire(category)

    assert repr(category) == "Shelf(id=1)"


# -- after the flush


async def test_what_the_database_computes_is_there_after_the_flush(session: AsyncSession) -> None:
    product = Gadget(name="rope")
    session.add(product)
    await session.flush()
    assert (product.stock, product.doubled) == (7, 14)

    product.stock = 9
    await session.flush()
    assert product.doubled == 18


async def test_timestamps_are_there_after_the_flush_without_a_query(session: AsyncSession) -> None:
    before = datetime.now(UTC)
    product = Gadget(name="rope")
    session.add(product)
    await session.flush()
    statements = Statements(session)

    assert before <= product.created_at <= datetime.now(UTC)
    assert product.updated_at == product.created_at
    assert statements.count == 0


async def test_a_change_refreshes_updated_at_and_leaves_created_at(session: AsyncSession) -> None:
    product = Gadget(name="rope")
    session.add(product)
    await session.flush()
    created = product.created_at

    product.name = "line"
    await session.flush()

    assert product.updated_at > created
    assert product.created_at == created


async def test_a_bulk_update_refreshes_updated_at(session: AsyncSession) -> None:
    session.add_all([Gadget(name="rope"), Gadget(name="line")])
    await session.flush()

    await session.execute(sa.update(Gadget).where(Gadget.name == "rope").values(name="sheet"))

    rows = await session.execute(sa.select(Gadget.name, Gadget.updated_at > Gadget.created_at))
    assert {name: bool(changed) for name, changed in rows} == {"sheet": True, "line": False}


async def test_a_bulk_insert_has_timestamps(session: AsyncSession) -> None:
    await session.execute(sa.insert(Gadget), [{"name": "rope"}, {"name": "line"}])

    rows = (await session.execute(sa.select(Gadget.created_at, Gadget.updated_at))).all()
    assert [created == updated for created, updated in rows] == [True, True]


async def test_a_moment_of_creation_that_is_given_is_kept(session: AsyncSession) -> None:
    given = datetime(2020, 1, 1, tzinfo=UTC)
    product = Gadget(name="rope", created_at=given)
    session.add(product)
    await session.flush()

    assert (product.created_at, product.updated_at) == (given, given)


def test_a_model_may_say_that_computed_values_are_not_fetched() -> None:
    class Lazy(Base):
        id: Mapped[int] = mapped_column(primary_key=True)
        __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012

    configure_mappers()

    assert sa.inspect(Lazy).eager_defaults is False
    assert sa.inspect(Shelf).eager_defaults is True


# -- relationships


async def category_with_product(session: AsyncSession) -> None:
    session.add(Shelf(name="deck", products=[Gadget(name="rope")]))
    await session.commit()
    session.expunge_all()


async def test_a_relationship_that_was_not_loaded_says_how_to_load_it(session: AsyncSession) -> None:
    await category_with_product(session)
    product = (await session.scalars(sa.select(Gadget))).one()
    category_id = product.category_id

    with pytest.raises(RelationshipNotLoadedError) as caught:
        _ = product.category
    assert str(caught.value) == (
        "Gadget.category was not loaded. Load it in the query, "
        "select(Gadget).options(joinedload(Gadget.category)), "
        'or for one row: await session.refresh(row, ["category"]).'
    )
    category = await session.get_one(Shelf, category_id)
    with pytest.raises(InvalidRequestError, match=r"selectinload\(Shelf\.products\)"):
        _ = category.products


async def test_the_loading_strategy_is_said_in_the_query(session: AsyncSession) -> None:
    await category_with_product(session)

    product = (await session.scalars(sa.select(Gadget).options(joinedload(Gadget.category)))).one()
    assert product.category is not None
    session.expunge_all()
    category = (await session.scalars(sa.select(Shelf).options(selectinload(Shelf.products)))).one()
    assert [product.name for product in category.products] == ["rope"]


async def test_a_refresh_loads_the_relationship_of_one_row(session: AsyncSession) -> None:
    category = Shelf(name="deck")
    session.add(category)
    await session.flush()

    await session.refresh(category, ["products"])

    assert category.products == []


async def test_a_relationship_that_needs_no_query_is_read(session: AsyncSession) -> None:
    await category_with_product(session)
    category = (await session.scalars(sa.select(Shelf))).one()
    product = (await session.scalars(sa.select(Gadget))).one()

    assert product.category is category
    assert Gadget(name="new").category is None


async def test_a_backref_is_loaded_in_the_query_too(session: AsyncSession) -> None:
    session.add(Order(lines=[OrderLine()], notes=[Note()]))
    await session.commit()
    session.expunge_all()
    line: Any = (await session.scalars(sa.select(OrderLine))).one()

    with pytest.raises(RelationshipNotLoadedError, match=r"OrderLine\.order was not loaded"):
        _ = line.order


async def test_a_row_with_unloaded_relationships_can_be_deleted(session: AsyncSession) -> None:
    await category_with_product(session)
    category = (await session.scalars(sa.select(Shelf))).one()

    await session.delete(category)
    await session.commit()

    assert (await session.scalars(sa.select(Gadget.category_id))).all() == [None]


@pytest.mark.parametrize(
    ("attribute", "lazy"), [("lines", "raise_on_sql"), ("notes", "selectin"), ("plain", True)]
)
def test_what_a_relationship_says_of_itself_wins(attribute: str, lazy: object) -> None:
    configure_mappers()

    assert sa.inspect(Order).relationships[attribute].lazy == lazy


def test_what_a_backref_says_of_itself_wins() -> None:
    configure_mappers()

    assert sa.inspect(Note).relationships["order"].lazy == "joined"


# -- new_id


def test_a_new_id_is_a_version_7_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    value = new_id()
    after = time.time_ns() // 1_000_000

    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert before <= value.int >> 80 <= after


def test_new_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(10**18, 10**18 + 10_000_000, 1_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    values = [new_id() for _ in range(10_000)]

    assert values == sorted(values)
    assert len(set(values)) == 10_000


async def test_a_value_that_does_not_fit_never_reaches_the_database(session: AsyncSession) -> None:
    session.add(Shelf(name="x" * 21))

    with pytest.raises(ColumnValueError, match=r"21 characters does not fit a String\(20\)"):
        await session.flush()

"""Rows that a test did not have to spell out."""

import enum
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from polyfactory import Use
from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    MetaData,
    UniqueConstraint,
    func,
    select,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column, registry, relationship

from backstay.db import AsyncSession
from backstay.db.model import NAMING_CONVENTION, Model, TimestampMixin, new_id
from backstay.db.types import Numeric, String
from backstay.errors import UsageError
from backstay.testing import RowFactory, factory_for
from backstay.testing._template import Tables

pytestmark = pytest.mark.databases("sqlite", "postgresql")


class Base(Model):
    """A set of tables of this module's own."""

    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    registry = registry(metadata=metadata, type_annotation_map=Model.type_annotation_map)


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Category(Base):
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(3), unique=True)
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("categories.id"))


class Product(TimestampMixin, Base):
    __table_args__ = (
        CheckConstraint("price > 0", name="price"),
        CheckConstraint("stock BETWEEN 3 AND 5", name="stock"),
        CheckConstraint("length(code) >= 15 AND length(code) < 19", name="code"),
        CheckConstraint("weight < 1 OR weight > 0", name="either"),
        UniqueConstraint("code"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(String(20))
    price: Mapped[Decimal] = mapped_column(Numeric(5, 2))
    stock: Mapped[int]
    weight: Mapped[float]
    colour: Mapped[Colour]
    sold_at: Mapped[datetime]
    made_on: Mapped[date]
    is_new: Mapped[bool]
    labels: Mapped[list[str]]
    facts: Mapped[dict[str, str]]
    note: Mapped[str | None]
    rank: Mapped[int] = mapped_column(server_default="7")
    category_id: Mapped[UUID] = mapped_column(ForeignKey("categories.id"))
    reviews: Mapped[list["Review"]] = relationship()
    category: Mapped[Category] = relationship()


class Review(Base):
    """Refers to a product without a relationship."""

    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"), primary_key=True)
    text: Mapped[str]


class Person(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {  # noqa: RUF012  SQLAlchemy types it as an instance's
        "polymorphic_on": "kind",
        "polymorphic_identity": "person",
        "version_id_col": version,
    }


class Baker(Person):
    __tablename__ = "bakers"

    id: Mapped[int] = mapped_column(ForeignKey("persons.id"), primary_key=True)
    bakery: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "baker"}  # noqa: RUF012  as above


class Digit(Base):
    value: Mapped[int] = mapped_column(
        CheckConstraint("value >= 0 AND value < 3", name="value"), primary_key=True, autoincrement=False
    )


class Answer(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    previous_id: Mapped[int] = mapped_column(ForeignKey("answers.id"))


@pytest.fixture(scope="module")
def metadata() -> Tables:
    return Base.metadata


class CategoryFactory(RowFactory[Category]):
    name = Use(lambda: "tea")


class TeapotFactory(RowFactory[Product]):
    code = "teapot-0000000001"
    category = CategoryFactory


async def test_a_row_is_filled_in_and_flushed(session: AsyncSession) -> None:
    product = await factory_for(Product).create(session)

    await session.refresh(product)
    assert 15 <= len(product.code) < 19
    assert 0 < product.price < 1000
    assert 3 <= product.stock <= 5
    assert isinstance(product.colour, Colour)
    assert product.sold_at.utcoffset() == datetime.now(UTC).utcoffset()
    assert product.labels == []
    assert product.facts == {}
    assert product.note
    assert product.rank == 7
    assert product.created_at == product.updated_at


async def test_given_values_win(session: AsyncSession) -> None:
    product = await factory_for(Product).create(session, price=Decimal("9.50"), note=None)

    assert (product.price, product.note) == (Decimal("9.50"), None)


async def test_rows_keep_to_the_constraints(session: AsyncSession) -> None:
    products = await factory_for(Product).create_batch(session, 50)

    await session.commit()
    assert len({product.code for product in products}) == 50


async def test_a_required_parent_is_made_and_reachable(session: AsyncSession) -> None:
    product = await factory_for(Product).create(session)

    assert product.category.id == product.category_id
    assert product.category.parent_id is None


async def test_a_given_parent_is_used(session: AsyncSession) -> None:
    category = await factory_for(Category).create(session)

    by_row = await factory_for(Product).create_batch(session, 2, category=category)
    by_key = await factory_for(Product).create(session, category_id=category.id)

    assert {product.category_id for product in (*by_row, by_key)} == {category.id}
    assert await session.scalar(select(func.count()).select_from(Category)) == 1


async def test_a_parent_without_a_relationship_is_made_too(session: AsyncSession) -> None:
    review = await factory_for(Review).create(session)

    assert await session.get(Product, review.product_id)


async def test_a_row_of_a_subclass_is_one_row(session: AsyncSession) -> None:
    baker = await factory_for(Baker).create(session)

    assert (baker.kind, baker.version) == ("baker", 1)
    assert await session.scalar(select(func.count()).select_from(Person)) == 1


async def test_a_factory_says_more(session: AsyncSession) -> None:
    teapot = await TeapotFactory.create(session)

    assert (teapot.code, teapot.category.name) == ("teapot-0000000001", "tea")


async def test_a_unique_column_gets_new_values_until_there_are_none(session: AsyncSession) -> None:
    digits = await factory_for(Digit).create_batch(session, 3)

    assert {digit.value for digit in digits} == {0, 1, 2}
    with pytest.raises(UsageError, match="no unused value for the unique column value"):
        await factory_for(Digit).create(session)


async def test_a_row_that_needs_one_of_its_own_kind_asks_for_it(session: AsyncSession) -> None:
    with pytest.raises(UsageError, match="cannot make up previous_id, which refers to answers: give a value"):
        await factory_for(Answer).create(session)


async def test_what_the_factory_is_told_may_break_a_constraint(session: AsyncSession) -> None:
    with pytest.raises(IntegrityError):
        await factory_for(Product).create(session, stock=6)


seen: list[str] = []


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.databases("sqlite")
async def test_values_depend_on_the_test(session: AsyncSession, attempt: int) -> None:
    seen.append((await factory_for(Product).create(session)).code)
    assert len(set(seen)) == attempt

"""The tables of products and categories."""

from decimal import Decimal
from uuid import UUID

from backstay import Model, TimestampMixin, VersionMixin
from backstay.db.model import new_id
from backstay.db.types import Numeric, String
from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship


class Category(Model):
    """A kind of product."""

    slug: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))


class Product(VersionMixin, TimestampMixin, Model):
    """Something to sell."""

    __table_args__ = (CheckConstraint("price >= 0", name="price_not_negative"),)

    product_id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    sku: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(120), index=True)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    category_slug: Mapped[str] = mapped_column(String(40), ForeignKey(Category.slug), index=True)
    # Each query says how to load it. Reading it unloaded raises, so that no query is hidden.
    category: Mapped[Category] = relationship()

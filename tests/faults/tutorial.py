"""The generated service's routes as tutorials write them: plain FastAPI, Pydantic and SQLAlchemy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import ForeignKey, Numeric, String, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables of the tutorial."""


class Category(Base):
    """A kind of product."""

    __tablename__ = "categories"
    slug: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))


class Product(Base):
    """Something to sell."""

    __tablename__ = "products"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    sku: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    category_slug: Mapped[str] = mapped_column(String(40), ForeignKey(Category.slug))


class User(Base):
    """Somebody who registered."""

    __tablename__ = "users"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(120))


class CategoryIn(BaseModel):
    """What a category is to be."""

    name: str


class ProductIn(BaseModel):
    """A new product."""

    sku: str
    name: str
    price: Decimal
    categorySlug: str  # noqa: N815  as it is on the wire


class UserIn(BaseModel):
    """Somebody who registers."""

    email: str
    name: str


def make_tutorial_app(database_url: str) -> FastAPI:  # noqa: C901  one function for each route
    """Return the service on a database that is empty; it starts with one product."""
    driver = database_url.replace("sqlite:", "sqlite+aiosqlite:").replace(
        "postgresql:", "postgresql+asyncpg:"
    )
    engine = create_async_engine(driver)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with sessions.begin() as session:
            session.add(Category(slug="tea", name="Tea"))
            await session.flush()
            session.add(Product(sku="TEA-1", name="Earl Grey", price=Decimal("4.50"), category_slug="tea"))
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    async def open_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    Session = Annotated[AsyncSession, Depends(open_session)]  # noqa: N806  it is a type

    @app.get("/products")
    async def list_products(
        session: Session, page: int = 1, size: int = 20, sort: str = "name", category: str | None = None
    ) -> list[dict[str, Any]]:
        query = select(Product).order_by(getattr(Product, sort.removeprefix("-")))
        if category is not None:
            query = query.where(Product.category_slug == category)
        found = await session.scalars(query.offset((page - 1) * size).limit(size))
        return [{"sku": product.sku, "price": product.price} for product in found]

    def as_row(product: ProductIn) -> Product:
        return Product(
            sku=product.sku,
            name=product.name,
            price=product.price,
            category_slug=product.categorySlug,
        )

    @app.post("/products", status_code=201)
    async def create_product(product: ProductIn, session: Session) -> ProductIn:
        session.add(as_row(product))
        await session.commit()
        return product

    @app.post("/products/import", status_code=204)
    async def import_products(products: list[ProductIn], session: Session) -> None:
        session.add_all(map(as_row, products))
        await session.commit()

    @app.get("/products/{product_id}")
    async def read_product(product_id: UUID, session: Session) -> dict[str, Any]:
        product = await session.get(Product, product_id)
        if product is None:
            raise HTTPException(404, "No such product")
        return {"sku": product.sku}

    @app.patch("/products/{product_id}")
    async def change_product(product_id: UUID, change: dict[str, Any], session: Session) -> dict[str, Any]:
        product = await session.get(Product, product_id)
        if product is None:
            raise HTTPException(404, f"No product {product_id}")
        return change

    @app.put("/categories/{slug}")
    async def put_category(slug: str, category: CategoryIn, session: Session) -> CategoryIn:
        await session.merge(Category(slug=slug, name=category.name))
        await session.commit()
        return category

    @app.post("/users", status_code=201)
    async def register(user: UserIn, session: Session) -> UserIn:
        session.add(User(email=user.email, name=user.name))
        await session.commit()
        return user

    return app

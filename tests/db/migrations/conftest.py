"""Models, and a folder of migrations that a test fills by hand."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapped, mapped_column

from backstay.db import Database
from backstay.db.migrations import (
    Migrations,
    Revision,
)
from backstay.db.model import NAMING_CONVENTION, Model, TimestampMixin, new_id
from backstay.db.types import Numeric, String

OpenEngine = Callable[[str], AsyncEngine]


class Base(Model):
    __abstract__ = True
    metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Sail(TimestampMixin, Base):
    """Every portable type, and the defaults and constraints that people write."""

    __table_args__ = (
        sa.CheckConstraint("area > 0", name="area"),
        sa.UniqueConstraint("name", "colour"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(40), index=True)
    text: Mapped[str | None]
    area: Mapped[float]
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    colour: Mapped[Colour]
    payload: Mapped[dict[str, Any] | None]
    is_set: Mapped[bool] = mapped_column(server_default=sa.false())
    reefs: Mapped[int] = mapped_column(server_default="2")
    maker: Mapped[str] = mapped_column(server_default="it's unknown")
    seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class Batten(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    sail_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(Sail.id, ondelete="CASCADE"), index=True)
    a_name_so_long_that_postgresql_would_cut_the_name_of_its_index: Mapped[int | None] = mapped_column(
        unique=True
    )


class Versions:
    """Writes migration files by hand."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "versions"
        self.folder.mkdir(parents=True)

    def write(
        self,
        revision: str,
        parent: str | tuple[str, ...] | None,
        upgrade: str = "pass",
        downgrade: str = "pass",
    ) -> Path:
        path = self.folder / f"{revision}.py"
        lines = [
            f'"""Do {revision}."""',
            "import sqlalchemy as sa",
            "from alembic import op",
            f"revision = {revision!r}",
            f"down_revision = {parent!r}",
            "def upgrade() -> None:",
            *(f"    {line}" for line in dedent(upgrade).strip().splitlines()),
            "def downgrade() -> None:",
            *(f"    {line}" for line in dedent(downgrade).strip().splitlines()),
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    def write_table(self, revision: str, parent: str | None) -> Path:
        return self.write(
            revision,
            parent,
            f'op.create_table("t_{revision}", sa.Column("id", sa.Integer(), primary_key=True))',
            f'op.drop_table("t_{revision}")',
        )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "migrations"


@pytest.fixture
def versions(directory: Path) -> Versions:
    return Versions(directory)


@pytest.fixture
def migrations(directory: Path) -> Migrations:
    return Migrations(Base.metadata, directory)


async def tables(engine: AsyncEngine) -> set[str]:
    async with engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())) - {
            "alembic_version"
        }


def ids(revisions: tuple[Revision, ...]) -> list[str]:
    return [revision.id for revision in revisions]


async def run(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(statement)


async def scalar(engine: AsyncEngine, statement: str) -> Any:
    async with engine.connect() as connection:
        return (await connection.exec_driver_sql(statement)).scalar()


_NO_TABLES = sa.MetaData()


@pytest.fixture
def metadata() -> sa.MetaData:
    """The plugin's databases start empty."""
    return _NO_TABLES


@pytest.fixture
def engine(database: Database) -> AsyncEngine:
    """The engine of an empty database, as a service has it."""
    return database.engine

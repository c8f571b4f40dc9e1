"""Which tables a statement is seen to read, for the cached functions that declare it."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, func, literal_column, select, text, union
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, aliased, joinedload, mapped_column, relationship, selectinload

from backstay.db import Database, Model
from backstay.transaction import UNKNOWN_READS, observe_reads, observing_reads


class Base(Model):
    __abstract__ = True
    metadata = sa.MetaData()


class Boat(Base):
    __tablename__ = "read_boats"
    id: Mapped[int] = mapped_column(primary_key=True)
    port_id: Mapped[int] = mapped_column(ForeignKey("read_ports.id"))


class Port(Base):
    __tablename__ = "read_ports"
    id: Mapped[int] = mapped_column(primary_key=True)
    boats: Mapped[list[Boat]] = relationship()


class Sail(Base):
    __tablename__ = "read_sails"
    id: Mapped[int] = mapped_column(primary_key=True)


PORTS, BOATS, SAILS = "read_ports", "read_boats", "read_sails"
OTHER = aliased(Boat)
SHAPES: list[tuple[str, Callable[[], Any], set[str]]] = [
    ("rows", lambda: select(Port), {PORTS}),
    ("columns", lambda: select(Boat.id), {BOATS}),
    ("a join", lambda: select(Port).join(Port.boats), {PORTS, BOATS}),
    ("a join of tables", lambda: select(Port.__table__).join(Boat.__table__), {PORTS, BOATS}),
    ("joinedload", lambda: select(Port).options(joinedload(Port.boats)), {PORTS, BOATS}),
    ("selectinload", lambda: select(Port).options(selectinload(Port.boats)), {PORTS, BOATS}),
    ("exists", lambda: select(Port).where(Port.boats.any()), {PORTS, BOATS}),
    ("an alias", lambda: select(OTHER.id), {BOATS}),
    ("in a subquery", lambda: select(Port).where(Port.id.in_(select(Sail.id))), {PORTS, SAILS}),
    ("a scalar subquery", lambda: select(select(func.max(Sail.id)).scalar_subquery()), {SAILS}),
    ("a common table", lambda: select(select(Boat.id).cte("some")), {BOATS}),
    ("a union", lambda: union(select(Port.id), select(Sail.id)), {PORTS, SAILS}),
    ("a count", lambda: select(func.count()).select_from(Boat), {BOATS}),
    ("a constant", lambda: select(sa.literal(1)), set()),
    ("text", lambda: text("SELECT id FROM read_boats"), {UNKNOWN_READS}),
    (
        "text in a condition",
        lambda: select(Port).where(text("id IN (SELECT id FROM read_sails)")),
        {PORTS, UNKNOWN_READS},
    ),
    ("text for an order", lambda: select(Port).order_by(text("id DESC")), {PORTS}),
    (
        "a literal column",
        lambda: select(literal_column("(SELECT count(*) FROM read_sails)")),
        {UNKNOWN_READS},
    ),
]


@pytest.fixture(scope="module")
def metadata() -> sa.MetaData:
    return Base.metadata


async def read(session: AsyncSession, statement: Any) -> None:
    (await session.execute(statement)).unique().all()


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize(("make", "tables"), [shape[1:] for shape in SHAPES], ids=[one[0] for one in SHAPES])
async def test_a_statement_reads_the_tables_that_it_names(
    database: Database, make: Callable[[], Any], tables: set[str]
) -> None:
    async with database.transaction() as session:
        session.add(Port(id=1))
    async with database.reading() as session:
        for _ in range(2):  # compiled, and kept by SQLAlchemy
            with observing_reads() as reads:
                await read(session, make())
            assert reads == tables


async def test_what_the_driver_is_told_is_unknown(database: Database) -> None:
    async with database.reading() as session:
        connection = await session.connection()
        with observing_reads() as reads:
            await connection.exec_driver_sql("SELECT 1")
    assert reads == {UNKNOWN_READS}


async def test_nobody_observes_outside_of_the_block(database: Database) -> None:
    with observing_reads() as reads:
        assert observe_reads() is reads
    assert observe_reads() is None
    async with database.reading() as session:
        await read(session, select(Port))
    assert reads == set()

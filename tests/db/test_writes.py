"""Every shape of a write reaches every reader of what it changed: the row, the list, and "there is none".

What a shape changed is found by comparing the tables before and after, not by asking the code. Each changed
row then has its readers, and none of them may be left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, delete, event, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column, relationship, selectinload

from backstay.db import Database, Model, row
from backstay.transaction import Source, of, source_of

pytestmark = pytest.mark.databases("sqlite", "postgresql")


class Base(Model):
    __abstract__ = True
    metadata = sa.MetaData()


novel_genres = sa.Table(
    "novel_genres",
    Base.metadata,
    sa.Column("novel_id", ForeignKey("novels.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("genre", ForeignKey("genres.name", onupdate="CASCADE", ondelete="CASCADE"), primary_key=True),
)


class Novelist(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    first_id: Mapped[int | None] = mapped_column(ForeignKey("novelists.id"))
    first: Mapped[Novelist | None] = relationship(remote_side="Novelist.id", post_update=True)
    novels: Mapped[list[Novel]] = relationship(cascade="all, delete-orphan", passive_deletes=True)


class Novel(Base):
    id: Mapped[UUID] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(default="")
    novelist_id: Mapped[int] = mapped_column(ForeignKey("novelists.id", ondelete="CASCADE"))
    genres: Mapped[list[Genre]] = relationship(secondary=novel_genres, passive_deletes=True)


class Genre(Base):
    name: Mapped[str] = mapped_column(primary_key=True)
    colour: Mapped[str] = mapped_column(default="")


class Critique(Base):
    novel_id: Mapped[UUID] = mapped_column(ForeignKey("novels.id", ondelete="CASCADE"), primary_key=True)
    line_no: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(default="")


class Lending(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    novel_id: Mapped[UUID | None] = mapped_column(ForeignKey("novels.id", ondelete="SET NULL"))


class Sailor(Base):
    __tablename__ = "sailors"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "sailor"}  # noqa: RUF012


class Captain(Sailor):
    __tablename__ = "captains"
    id: Mapped[int] = mapped_column(ForeignKey("sailors.id", ondelete="CASCADE"), primary_key=True)
    cabin: Mapped[str] = mapped_column(default="")
    __mapper_args__ = {"polymorphic_identity": "captain"}  # noqa: RUF012


def table_of(model: type[Model]) -> sa.Table:
    return cast("sa.Table", model.__table__)


NOVEL, OTHER = UUID(int=1), UUID(int=2)
ROWS = [
    insert(table_of(Novelist)).values([{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]),
    insert(table_of(Novel)).values([{"id": NOVEL, "title": "", "novelist_id": 1}]),
    insert(table_of(Genre)).values([{"name": "new", "colour": ""}, {"name": "old", "colour": ""}]),
    novel_genres.insert().values([{"novel_id": NOVEL, "genre": "new"}]),
    insert(table_of(Critique)).values([{"novel_id": NOVEL, "line_no": 1, "note": ""}]),
    insert(table_of(Lending)).values([{"id": 1, "novel_id": NOVEL}]),
    insert(table_of(Sailor)).values([{"id": 1, "kind": "captain", "name": ""}]),
    insert(table_of(Captain)).values([{"id": 1, "cabin": ""}]),
]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def metadata() -> sa.MetaData:
    return Base.metadata


@pytest.fixture
async def rows(database: Database) -> None:
    async with database.transaction() as session:
        for statement in ROWS:
            await session.execute(statement)


async def contents(database: Database) -> set[tuple[str, tuple[object, ...]]]:
    """Every row of every table."""
    async with database.reading() as session:
        return {
            (name, tuple(values))
            for name, table in Base.metadata.tables.items()
            for values in await session.execute(select(table))
        }


def readers_of(table: str, values: tuple[object, ...]) -> list[tuple[Source, Row]]:
    """The readers of a row: by its key where its class has one, and of all rows of its table and class."""
    readers: list[tuple[Source, Row]] = [(source_of(Base.metadata.tables[table]), {})]
    arguments = dict(zip(Base.metadata.tables[table].columns.keys(), values, strict=True))
    for mapper in Base.registry.mappers:
        if mapper.local_table is Base.metadata.tables[table]:
            keys = [str(column.key) for column in mapper.primary_key]
            readers += [
                (row(mapper.class_, *keys), arguments),
                (source_of(cast("Any", mapper.class_)), {}),
            ]
    return readers


# -- the shapes


async def add(session: AsyncSession) -> None:
    session.add(Novelist(id=3))


async def add_several_at_once(session: AsyncSession) -> None:
    session.add_all([Critique(novel_id=NOVEL, line_no=2), Critique(novel_id=NOVEL, line_no=3)])


async def change(session: AsyncSession) -> None:
    (await session.get_one(Novelist, 1)).name = "Cid"


async def change_with_a_sql_value(session: AsyncSession) -> None:
    (await session.get_one(Novelist, 1)).name = Novelist.name + "!"


async def merge(session: AsyncSession) -> None:
    await session.merge(Novelist(id=2, name="Cid"))


async def change_the_key(session: AsyncSession) -> None:
    (await session.get_one(Critique, (NOVEL, 1))).line_no = 7


async def change_a_key_that_others_follow(session: AsyncSession) -> None:
    (await session.get_one(Genre, "new")).name = "newer"


async def remove(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Critique, (NOVEL, 1)))


async def remove_with_what_hangs_on_it(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Novelist, 1))


async def remove_an_orphan(session: AsyncSession) -> None:
    novelist = await session.get_one(Novelist, 1, options=[selectinload(Novelist.novels)])
    novelist.novels.clear()


async def replace_a_row(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Critique, (NOVEL, 1)))
    session.add(Critique(novel_id=NOVEL, line_no=1, note="new"))


async def link(session: AsyncSession) -> None:
    novel = await session.get_one(Novel, NOVEL, options=[selectinload(Novel.genres)])
    novel.genres = [await session.get_one(Genre, "old")]


async def add_through_a_collection(session: AsyncSession) -> None:
    novelist = await session.get_one(Novelist, 2, options=[selectinload(Novelist.novels)])
    novelist.novels.append(Novel(id=OTHER))


async def point_after_the_fact(session: AsyncSession) -> None:
    session.add(Novelist(id=4, first=await session.get_one(Novelist, 1)))


async def add_an_heir(session: AsyncSession) -> None:
    session.add(Captain(id=2))


async def change_an_heir(session: AsyncSession) -> None:
    (await session.get_one(Captain, 1)).cabin = "7"


async def remove_an_heir(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Captain, 1))


async def flush_twice(session: AsyncSession) -> None:
    novelist = await session.get_one(Novelist, 1)
    novelist.name = "Cid"
    await session.flush()
    (await session.get_one(Genre, "old")).colour = "red"


async def in_a_savepoint(session: AsyncSession) -> None:
    async with session.begin_nested():
        session.add(Novelist(id=3))


async def after_a_flush_that_failed(session: AsyncSession) -> None:
    with pytest.raises(IntegrityError):
        async with session.begin_nested():
            session.add(Novelist(id=1))
            await session.flush()
    (await session.get_one(Novelist, 2)).name = "Cid"


async def many_rows(session: AsyncSession) -> None:
    await session.execute(update(Novelist).values(name="Cid"))


async def many_rows_by_their_keys(session: AsyncSession) -> None:
    await session.execute(update(Novelist), [{"id": 1, "name": "Cid"}, {"id": 2, "name": "Dan"}])


async def many_rows_under_another_name(session: AsyncSession) -> None:
    other = aliased(Novelist)
    await session.execute(update(other).where(other.id == 1).values(name="Cid"))


async def many_rows_inserted(session: AsyncSession) -> None:
    await session.execute(insert(Novelist), [{"id": 3}, {"id": 4}])


async def inserted_and_returned(session: AsyncSession) -> None:
    statement = insert(Novelist).values(id=3).returning(Novelist)
    await session.scalars(select(Novelist).from_statement(statement))


async def inserted_from_a_query(session: AsyncSession) -> None:
    query = select(sa.literal(3), sa.literal("Cid"))
    await session.execute(insert(Novelist).from_select(["id", "name"], query))


async def many_rows_removed(session: AsyncSession) -> None:
    await session.execute(delete(Novel))


async def many_rows_saved(session: AsyncSession) -> None:
    await session.run_sync(lambda blocking: blocking.bulk_save_objects([Novelist(id=3), Novelist(id=4)]))


async def many_rows_saved_before_a_flush(session: AsyncSession) -> None:
    await many_rows_saved(session)
    session.add(Novelist(id=5))


async def upsert(session: AsyncSession) -> None:
    kind = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = kind.insert(Novelist).values(id=1, name="Cid")
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"name": "Cid"}))


async def upsert_that_may_change_a_key(session: AsyncSession) -> None:
    kind = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = kind.insert(Genre).values(name="new", colour="")
    change = statement.on_conflict_do_update(index_elements=["name"], set_={"name": "newer"})
    await session.execute(change)


async def replaced_in_another_way(session: AsyncSession) -> None:
    """SQLite deletes the row that is in the way, and what hangs on it."""
    if session.get_bind().dialect.name == "postgresql":
        pytest.skip("PostgreSQL has no OR REPLACE")
    statement = insert(table_of(Novel)).prefix_with("OR REPLACE").values(id=NOVEL, novelist_id=2, title="")
    await session.execute(statement)


async def keys_that_others_follow(session: AsyncSession) -> None:
    await session.execute(update(Genre).where(Genre.name == "new").values(name="newer"))


async def columns_that_others_do_not_follow(session: AsyncSession) -> None:
    await session.execute(update(Genre).where(Genre.name == "new").values(colour="red"))


async def by_the_table(session: AsyncSession) -> None:
    await session.execute(update(table_of(Novelist)).where(table_of(Novelist).c.id == 1).values(name="Cid"))


async def by_an_association_table(session: AsyncSession) -> None:
    await session.execute(novel_genres.delete())


async def by_a_table_without_metadata(session: AsyncSession) -> None:
    await session.execute(sa.table("novelists", sa.column("name")).update().values(name="Cid"))


async def removed_by_a_table_without_metadata(session: AsyncSession) -> None:
    await session.execute(sa.table("novels").delete())


async def by_the_connection(session: AsyncSession) -> None:
    await (await session.connection()).execute(delete(Critique))


async def by_the_connection_alone(session: AsyncSession) -> None:
    await (await session.connection()).exec_driver_sql("DELETE FROM critiques")


async def by_an_expression_that_writes(session: AsyncSession) -> None:
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no WITH that writes")
    removed = delete(Novel).returning(Novel.id).cte("removed")
    await session.execute(select(removed.c.id))


async def by_an_expression_beside_a_write(session: AsyncSession) -> None:
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no WITH that writes")
    removed = delete(Critique).returning(Critique.novel_id).cte("removed")
    await session.execute(update(Novelist).values(name="Cid").add_cte(removed))


async def rows_found_by_an_expression(session: AsyncSession) -> None:
    found = select(Critique.line_no).with_for_update().cte("found")
    await session.execute(delete(Critique).where(Critique.line_no.in_(select(found.c.line_no))))


async def by_an_expression_of_text(session: AsyncSession) -> None:
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no WITH that writes")
    removed = text("DELETE FROM critiques RETURNING line_no").columns(sa.column("line_no")).cte("removed")
    await session.execute(select(removed.c.line_no))


async def by_text(session: AsyncSession) -> None:
    await session.execute(text("  /* why */ update novelists SET name = 'Cid'"))


async def by_text_that_returns_rows(session: AsyncSession) -> None:
    statement = text("UPDATE novelists SET name = 'Cid' RETURNING id, name, first_id")
    await session.scalars(select(Novelist).from_statement(statement))


async def by_text_with_columns(session: AsyncSession) -> None:
    await session.execute(text("DELETE FROM critiques RETURNING line_no").columns(sa.column("line_no")))


async def by_text_with_an_expression(session: AsyncSession) -> None:
    await session.execute(text("WITH one AS (SELECT 1) DELETE FROM lendings WHERE id IN (SELECT * FROM one)"))


async def by_a_hook_of_the_flush(session: AsyncSession) -> None:
    def write(mapper: object, connection: sa.Connection, novelist: Novelist) -> None:
        connection.execute(update(table_of(Novelist)).where(table_of(Novelist).c.id == 2).values(name="hook"))

    event.listen(Novelist, "after_insert", write)
    try:
        session.add(Novelist(id=3))
        await session.flush()
    finally:
        event.remove(Novelist, "after_insert", write)


async def by_a_hook_with_the_session(session: AsyncSession) -> None:
    def write(blocking: Session, flush: object) -> None:
        blocking.execute(insert(Novelist), [{"id": 4}, {"id": 5}])

    event.listen(session.sync_session, "after_flush", write)
    session.add(Novelist(id=3))
    await session.flush()


Shape = Callable[[AsyncSession], Awaitable[None]]
NOVEL_CHILDREN = {"critiques", "critiques:*", "lendings", "lendings:*", "novel_genres", "novel_genres:*"}
NOVELISTS = {"novelists", "novelists:*"}
GENRES = {"genres", "novel_genres", "novel_genres:*"}
SHAPES: dict[Shape, set[str]] = {
    add: {"novelists", "novelists:3"},
    add_several_at_once: {"critiques", f"critiques:{NOVEL.hex},2", f"critiques:{NOVEL.hex},3"},
    change: {"novelists", "novelists:1"},
    change_with_a_sql_value: {"novelists", "novelists:1"},
    merge: {"novelists", "novelists:2"},
    change_the_key: {"critiques", f"critiques:{NOVEL.hex},1", f"critiques:{NOVEL.hex},7"},
    change_a_key_that_others_follow: {
        "genres",
        "genres:new",
        "genres:newer",
        "novel_genres",
        "novel_genres:*",
    },
    remove: {"critiques", f"critiques:{NOVEL.hex},1"},
    remove_with_what_hangs_on_it: {"novelists", "novelists:1", "novels", "novels:*"} | NOVEL_CHILDREN,
    remove_an_orphan: {"novels", f"novels:{NOVEL.hex}"} | NOVEL_CHILDREN,
    replace_a_row: {"critiques", f"critiques:{NOVEL.hex},1"},
    link: {"novel_genres", "novel_genres:*"},
    add_through_a_collection: {"novels", f"novels:{OTHER.hex}"},
    point_after_the_fact: {"novelists", "novelists:4"},
    add_an_heir: {"sailors", "sailors:2", "captains", "captains:2"},
    change_an_heir: {"captains", "captains:1"},
    remove_an_heir: {"sailors", "sailors:1", "captains", "captains:1", "captains:*"},
    flush_twice: {"novelists", "novelists:1", "genres", "genres:old"},
    in_a_savepoint: {"novelists", "novelists:3"},
    after_a_flush_that_failed: {"novelists", "novelists:2", "novelists:*"},
    many_rows: NOVELISTS,
    many_rows_by_their_keys: NOVELISTS,
    many_rows_under_another_name: NOVELISTS,
    many_rows_inserted: NOVELISTS,
    inserted_and_returned: NOVELISTS,
    inserted_from_a_query: NOVELISTS,
    many_rows_removed: {"novels", "novels:*"} | NOVEL_CHILDREN,
    many_rows_saved: NOVELISTS,
    many_rows_saved_before_a_flush: NOVELISTS | {"novelists:5"},
    upsert: NOVELISTS,
    upsert_that_may_change_a_key: GENRES | {"genres:*"},
    replaced_in_another_way: {"novels", "novels:*"} | NOVEL_CHILDREN,
    keys_that_others_follow: GENRES | {"genres:*"},
    columns_that_others_do_not_follow: {"genres", "genres:*"},
    by_the_table: NOVELISTS,
    by_an_association_table: {"novel_genres", "novel_genres:*"},
    by_a_table_without_metadata: NOVELISTS,
    removed_by_a_table_without_metadata: {"novels", "novels:*", "*"},
    by_the_connection: {"critiques", "critiques:*"},
    by_the_connection_alone: {"*"},
    by_an_expression_that_writes: {"novels", "novels:*"} | NOVEL_CHILDREN,
    by_an_expression_beside_a_write: NOVELISTS | {"critiques", "critiques:*"},
    rows_found_by_an_expression: {"critiques", "critiques:*"},
    by_an_expression_of_text: {"*"},
    by_text: {"*"},
    by_text_that_returns_rows: {"*"},
    by_text_with_columns: {"*"},
    by_text_with_an_expression: {"*"},
    by_a_hook_of_the_flush: NOVELISTS | {"novelists:3"},
    by_a_hook_with_the_session: NOVELISTS | {"novelists:3"},
}


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
async def test_each_reader_of_what_changed_is_reached(database: Database, shape: Shape) -> None:
    before = await contents(database)

    async with database.transaction() as session:
        transaction = of(session)
        await shape(session)

    changed = before ^ await contents(database)
    assert changed, "the shape wrote nothing"
    for table, values in changed:
        for source, arguments in readers_of(table, values):
            assert transaction.writes & set(source.tags(arguments)), (source, table, values)
    assert transaction.writes == SHAPES[shape]


async def nothing_new(session: AsyncSession) -> None:
    novelist = await session.get_one(Novelist, 1)
    novelist.name = str(novelist.name)


async def select_for_update(session: AsyncSession) -> None:
    await session.execute(select(Novelist).with_for_update())


async def select_with_an_expression(session: AsyncSession) -> None:
    found = select(Novelist.id).cte("found")
    await session.execute(select(found))


async def select_by_text(session: AsyncSession) -> None:
    await session.execute(text("WITH found AS (SELECT id FROM novelists) SELECT id FROM found"))


async def explain(session: AsyncSession) -> None:
    await session.execute(text("EXPLAIN SELECT 1"))


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    "shape", [nothing_new, select_for_update, select_with_an_expression, select_by_text, explain]
)
async def test_what_changes_nothing_names_nothing(database: Database, shape: Shape) -> None:
    before = await contents(database)
    async with database.transaction() as session:
        transaction = of(session)
        await shape(session)
    assert await contents(database) == before
    assert transaction.writes == set()


@pytest.mark.usefixtures("rows")
async def test_the_write_of_a_row_leaves_readers_of_other_rows_alone(database: Database) -> None:
    async with database.transaction() as session:
        transaction = of(session)
        await change(session)
    assert transaction.writes & set(row(Novelist, "novelist_id").tags({"novelist_id": 1}))
    assert not transaction.writes & set(row(Novelist, "novelist_id").tags({"novelist_id": 2}))
    assert not transaction.writes & set(source_of(Novel).tags({}))


@pytest.mark.usefixtures("rows")
async def test_a_savepoint_that_is_rolled_back_leaves_its_tags(database: Database) -> None:
    """They cost a miss, and leaving them out would need to know which statement wrote which tag first."""
    async with database.transaction() as session:
        with pytest.raises(RuntimeError):
            async with session.begin_nested():
                await session.execute(delete(Critique))
                raise RuntimeError
        assert of(session).writes == {"critiques", "critiques:*"}


@pytest.mark.usefixtures("rows")
async def test_a_blocking_session_names_its_writes_too(database: Database) -> None:
    def work() -> set[str]:
        with database.sync_transaction() as session:
            session.get_one(Novelist, 1).name = "Cid"
            session.flush()
            return of(session).writes

    assert await asyncio.to_thread(work) == {"novelists", "novelists:1"}

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


book_tags = sa.Table(
    "book_tags",
    Base.metadata,
    sa.Column("book_id", ForeignKey("books.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tag", ForeignKey("tags.name", onupdate="CASCADE", ondelete="CASCADE"), primary_key=True),
)


class Author(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    first_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id"))
    first: Mapped[Author | None] = relationship(remote_side="Author.id", post_update=True)
    books: Mapped[list[Book]] = relationship(cascade="all, delete-orphan", passive_deletes=True)


class Book(Base):
    id: Mapped[UUID] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(default="")
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id", ondelete="CASCADE"))
    tags: Mapped[list[Tag]] = relationship(secondary=book_tags, passive_deletes=True)


class Tag(Base):
    name: Mapped[str] = mapped_column(primary_key=True)
    colour: Mapped[str] = mapped_column(default="")


class Review(Base):
    book_id: Mapped[UUID] = mapped_column(ForeignKey("books.id", ondelete="CASCADE"), primary_key=True)
    line_no: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(default="")


class Loan(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[UUID | None] = mapped_column(ForeignKey("books.id", ondelete="SET NULL"))


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Employee(Person):
    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), primary_key=True)
    desk: Mapped[str] = mapped_column(default="")
    __mapper_args__ = {"polymorphic_identity": "employee"}  # noqa: RUF012


def table_of(model: type[Model]) -> sa.Table:
    return cast("sa.Table", model.__table__)


BOOK, OTHER = UUID(int=1), UUID(int=2)
ROWS = [
    insert(table_of(Author)).values([{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]),
    insert(table_of(Book)).values([{"id": BOOK, "title": "", "author_id": 1}]),
    insert(table_of(Tag)).values([{"name": "new", "colour": ""}, {"name": "old", "colour": ""}]),
    book_tags.insert().values([{"book_id": BOOK, "tag": "new"}]),
    insert(table_of(Review)).values([{"book_id": BOOK, "line_no": 1, "note": ""}]),
    insert(table_of(Loan)).values([{"id": 1, "book_id": BOOK}]),
    insert(table_of(Person)).values([{"id": 1, "kind": "employee", "name": ""}]),
    insert(table_of(Employee)).values([{"id": 1, "desk": ""}]),
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
    session.add(Author(id=3))


async def add_several_at_once(session: AsyncSession) -> None:
    session.add_all([Review(book_id=BOOK, line_no=2), Review(book_id=BOOK, line_no=3)])


async def change(session: AsyncSession) -> None:
    (await session.get_one(Author, 1)).name = "Cid"


async def change_with_a_sql_value(session: AsyncSession) -> None:
    (await session.get_one(Author, 1)).name = Author.name + "!"


async def merge(session: AsyncSession) -> None:
    await session.merge(Author(id=2, name="Cid"))


async def change_the_key(session: AsyncSession) -> None:
    (await session.get_one(Review, (BOOK, 1))).line_no = 7


async def change_a_key_that_others_follow(session: AsyncSession) -> None:
    (await session.get_one(Tag, "new")).name = "newer"


async def remove(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Review, (BOOK, 1)))


async def remove_with_what_hangs_on_it(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Author, 1))


async def remove_an_orphan(session: AsyncSession) -> None:
    author = await session.get_one(Author, 1, options=[selectinload(Author.books)])
    author.books.clear()


async def replace_a_row(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Review, (BOOK, 1)))
    session.add(Review(book_id=BOOK, line_no=1, note="new"))


async def link(session: AsyncSession) -> None:
    book = await session.get_one(Book, BOOK, options=[selectinload(Book.tags)])
    book.tags = [await session.get_one(Tag, "old")]


async def add_through_a_collection(session: AsyncSession) -> None:
    author = await session.get_one(Author, 2, options=[selectinload(Author.books)])
    author.books.append(Book(id=OTHER))


async def point_after_the_fact(session: AsyncSession) -> None:
    session.add(Author(id=4, first=await session.get_one(Author, 1)))


async def add_a_heir(session: AsyncSession) -> None:
    session.add(Employee(id=2))


async def change_a_heir(session: AsyncSession) -> None:
    (await session.get_one(Employee, 1)).desk = "7"


async def remove_a_heir(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Employee, 1))


async def flush_twice(session: AsyncSession) -> None:
    author = await session.get_one(Author, 1)
    author.name = "Cid"
    await session.flush()
    (await session.get_one(Tag, "old")).colour = "red"


async def in_a_savepoint(session: AsyncSession) -> None:
    async with session.begin_nested():
        session.add(Author(id=3))


async def after_a_flush_that_failed(session: AsyncSession) -> None:
    with pytest.raises(IntegrityError):
        async with session.begin_nested():
            session.add(Author(id=1))
            await session.flush()
    (await session.get_one(Author, 2)).name = "Cid"


async def many_rows(session: AsyncSession) -> None:
    await session.execute(update(Author).values(name="Cid"))


async def many_rows_by_their_keys(session: AsyncSession) -> None:
    await session.execute(update(Author), [{"id": 1, "name": "Cid"}, {"id": 2, "name": "Dan"}])


async def many_rows_under_another_name(session: AsyncSession) -> None:
    other = aliased(Author)
    await session.execute(update(other).where(other.id == 1).values(name="Cid"))


async def many_rows_inserted(session: AsyncSession) -> None:
    await session.execute(insert(Author), [{"id": 3}, {"id": 4}])


async def inserted_and_returned(session: AsyncSession) -> None:
    statement = insert(Author).values(id=3).returning(Author)
    await session.scalars(select(Author).from_statement(statement))


async def inserted_from_a_query(session: AsyncSession) -> None:
    query = select(sa.literal(3), sa.literal("Cid"))
    await session.execute(insert(Author).from_select(["id", "name"], query))


async def many_rows_removed(session: AsyncSession) -> None:
    await session.execute(delete(Book))


async def many_rows_saved(session: AsyncSession) -> None:
    await session.run_sync(lambda blocking: blocking.bulk_save_objects([Author(id=3), Author(id=4)]))


async def many_rows_saved_before_a_flush(session: AsyncSession) -> None:
    await many_rows_saved(session)
    session.add(Author(id=5))


async def upsert(session: AsyncSession) -> None:
    kind = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = kind.insert(Author).values(id=1, name="Cid")
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"name": "Cid"}))


async def replaced_in_another_way(session: AsyncSession) -> None:
    """SQLite deletes the row that is in the way, and what hangs on it."""
    if session.get_bind().dialect.name == "postgresql":
        pytest.skip("PostgreSQL has no OR REPLACE")
    statement = insert(table_of(Book)).prefix_with("OR REPLACE").values(id=BOOK, author_id=2, title="")
    await session.execute(statement)


async def keys_that_others_follow(session: AsyncSession) -> None:
    await session.execute(update(Tag).where(Tag.name == "new").values(name="newer"))


async def columns_that_others_do_not_follow(session: AsyncSession) -> None:
    await session.execute(update(Tag).where(Tag.name == "new").values(colour="red"))


async def by_the_table(session: AsyncSession) -> None:
    await session.execute(update(table_of(Author)).where(table_of(Author).c.id == 1).values(name="Cid"))


async def by_an_association_table(session: AsyncSession) -> None:
    await session.execute(book_tags.delete())


async def by_a_table_without_metadata(session: AsyncSession) -> None:
    await session.execute(sa.table("authors", sa.column("name")).update().values(name="Cid"))


async def removed_by_a_table_without_metadata(session: AsyncSession) -> None:
    await session.execute(sa.table("books").delete())


async def by_the_connection(session: AsyncSession) -> None:
    await (await session.connection()).execute(delete(Review))


async def by_the_connection_alone(session: AsyncSession) -> None:
    await (await session.connection()).exec_driver_sql("DELETE FROM reviews")


async def by_an_expression_that_writes(session: AsyncSession) -> None:
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no WITH that writes")
    removed = delete(Book).returning(Book.id).cte("removed")
    await session.execute(select(removed.c.id))


async def by_an_expression_beside_a_write(session: AsyncSession) -> None:
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no WITH that writes")
    removed = delete(Review).returning(Review.book_id).cte("removed")
    await session.execute(update(Author).values(name="Cid").add_cte(removed))


async def rows_found_by_an_expression(session: AsyncSession) -> None:
    found = select(Review.line_no).with_for_update().cte("found")
    await session.execute(delete(Review).where(Review.line_no.in_(select(found.c.line_no))))


async def by_an_expression_of_text(session: AsyncSession) -> None:
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no WITH that writes")
    removed = text("DELETE FROM reviews RETURNING line_no").columns(sa.column("line_no")).cte("removed")
    await session.execute(select(removed.c.line_no))


async def by_text(session: AsyncSession) -> None:
    await session.execute(text("  /* why */ update authors SET name = 'Cid'"))


async def by_text_that_returns_rows(session: AsyncSession) -> None:
    statement = text("UPDATE authors SET name = 'Cid' RETURNING id, name, first_id")
    await session.scalars(select(Author).from_statement(statement))


async def by_text_with_columns(session: AsyncSession) -> None:
    await session.execute(text("DELETE FROM reviews RETURNING line_no").columns(sa.column("line_no")))


async def by_text_with_an_expression(session: AsyncSession) -> None:
    await session.execute(text("WITH one AS (SELECT 1) DELETE FROM loans WHERE id IN (SELECT * FROM one)"))


async def by_a_hook_of_the_flush(session: AsyncSession) -> None:
    def write(mapper: object, connection: sa.Connection, author: Author) -> None:
        connection.execute(update(table_of(Author)).where(table_of(Author).c.id == 2).values(name="hook"))

    event.listen(Author, "after_insert", write)
    try:
        session.add(Author(id=3))
        await session.flush()
    finally:
        event.remove(Author, "after_insert", write)


async def by_a_hook_with_the_session(session: AsyncSession) -> None:
    def write(blocking: Session, flush: object) -> None:
        blocking.execute(insert(Author), [{"id": 4}, {"id": 5}])

    event.listen(session.sync_session, "after_flush", write)
    session.add(Author(id=3))
    await session.flush()


Shape = Callable[[AsyncSession], Awaitable[None]]
BOOK_CHILDREN = {"reviews", "reviews:*", "loans", "loans:*", "book_tags", "book_tags:*"}
AUTHORS = {"authors", "authors:*"}
SHAPES: dict[Shape, set[str]] = {
    add: {"authors", "authors:3"},
    add_several_at_once: {"reviews", f"reviews:{BOOK.hex},2", f"reviews:{BOOK.hex},3"},
    change: {"authors", "authors:1"},
    change_with_a_sql_value: {"authors", "authors:1"},
    merge: {"authors", "authors:2"},
    change_the_key: {"reviews", f"reviews:{BOOK.hex},1", f"reviews:{BOOK.hex},7"},
    change_a_key_that_others_follow: {"tags", "tags:new", "tags:newer", "book_tags", "book_tags:*"},
    remove: {"reviews", f"reviews:{BOOK.hex},1"},
    remove_with_what_hangs_on_it: {"authors", "authors:1", "books", "books:*"} | BOOK_CHILDREN,
    remove_an_orphan: {"books", f"books:{BOOK.hex}"} | BOOK_CHILDREN,
    replace_a_row: {"reviews", f"reviews:{BOOK.hex},1"},
    link: {"book_tags", "book_tags:*"},
    add_through_a_collection: {"books", f"books:{OTHER.hex}"},
    point_after_the_fact: {"authors", "authors:4"},
    add_a_heir: {"people", "people:2", "employees", "employees:2"},
    change_a_heir: {"employees", "employees:1"},
    remove_a_heir: {"people", "people:1", "employees", "employees:1", "employees:*"},
    flush_twice: {"authors", "authors:1", "tags", "tags:old"},
    in_a_savepoint: {"authors", "authors:3"},
    after_a_flush_that_failed: {"authors", "authors:2", "authors:*"},
    many_rows: AUTHORS,
    many_rows_by_their_keys: AUTHORS,
    many_rows_under_another_name: AUTHORS,
    many_rows_inserted: AUTHORS,
    inserted_and_returned: AUTHORS,
    inserted_from_a_query: AUTHORS,
    many_rows_removed: {"books", "books:*"} | BOOK_CHILDREN,
    many_rows_saved: AUTHORS,
    many_rows_saved_before_a_flush: AUTHORS | {"authors:5"},
    upsert: AUTHORS,
    replaced_in_another_way: {"books", "books:*"} | BOOK_CHILDREN,
    keys_that_others_follow: {"tags", "tags:*", "book_tags", "book_tags:*"},
    columns_that_others_do_not_follow: {"tags", "tags:*"},
    by_the_table: AUTHORS,
    by_an_association_table: {"book_tags", "book_tags:*"},
    by_a_table_without_metadata: AUTHORS,
    removed_by_a_table_without_metadata: {"books", "books:*", "*"},
    by_the_connection: {"reviews", "reviews:*"},
    by_the_connection_alone: {"*"},
    by_an_expression_that_writes: {"books", "books:*"} | BOOK_CHILDREN,
    by_an_expression_beside_a_write: AUTHORS | {"reviews", "reviews:*"},
    rows_found_by_an_expression: {"reviews", "reviews:*"},
    by_an_expression_of_text: {"*"},
    by_text: {"*"},
    by_text_that_returns_rows: {"*"},
    by_text_with_columns: {"*"},
    by_text_with_an_expression: {"*"},
    by_a_hook_of_the_flush: AUTHORS | {"authors:3"},
    by_a_hook_with_the_session: AUTHORS | {"authors:3"},
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
    author = await session.get_one(Author, 1)
    author.name = str(author.name)


async def select_for_update(session: AsyncSession) -> None:
    await session.execute(select(Author).with_for_update())


async def select_with_an_expression(session: AsyncSession) -> None:
    found = select(Author.id).cte("found")
    await session.execute(select(found))


async def select_by_text(session: AsyncSession) -> None:
    await session.execute(text("WITH found AS (SELECT id FROM authors) SELECT id FROM found"))


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
    assert transaction.writes & set(row(Author, "author_id").tags({"author_id": 1}))
    assert not transaction.writes & set(row(Author, "author_id").tags({"author_id": 2}))
    assert not transaction.writes & set(source_of(Book).tags({}))


@pytest.mark.usefixtures("rows")
async def test_a_savepoint_that_is_rolled_back_leaves_its_tags(database: Database) -> None:
    """They cost a miss, and leaving them out would need to know which statement wrote which tag first."""
    async with database.transaction() as session:
        with pytest.raises(RuntimeError):
            async with session.begin_nested():
                await session.execute(delete(Review))
                raise RuntimeError
        assert of(session).writes == {"reviews", "reviews:*"}


@pytest.mark.usefixtures("rows")
async def test_a_blocking_session_names_its_writes_too(database: Database) -> None:
    def work() -> set[str]:
        with database.sync_transaction() as session:
            session.get_one(Author, 1).name = "Cid"
            session.flush()
            return of(session).writes

    assert await asyncio.to_thread(work) == {"authors", "authors:1"}

"""What a database says becomes an answer for the caller, without a word of what the database said."""

import re
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, bindparam, text
from sqlalchemy.exc import DBAPIError

from backstay.db import Database, as_app_error
from backstay.db.types import ColumnValueError
from backstay.errors import AppError

pytestmark = pytest.mark.databases("sqlite", "postgresql")

tables = MetaData()
parents = Table("parents", tables, Column("id", Integer, primary_key=True))
children = Table(
    "children",
    tables,
    Column("id", Integer, primary_key=True),
    Column("parent_id", ForeignKey("parents.id")),
)

SECRET = "c4nary"


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


async def provoke(database: Database, *statements: str, **values: object) -> Exception:
    """Return what the last of the statements raises, of as many transactions."""
    for statement in statements[:-1]:
        async with database.transaction() as session:
            await session.execute(text(statement))
    with pytest.raises(Exception) as raised:  # noqa: PT011  which one is what the tests are about
        async with database.transaction() as session:
            await session.execute(text(statements[-1]), values)
    return raised.value


def answer(error: Exception) -> AppError:
    meaning = as_app_error(error)
    assert meaning is not None, repr(error)
    said = f"{meaning} {meaning.detail} {meaning.extensions} {meaning.headers}"
    assert re.search(rf"{SECRET}|INSERT|SELECT|things|parents", said) is None
    return meaning


THINGS = (
    "CREATE TABLE things (id INTEGER PRIMARY KEY, name VARCHAR(6) NOT NULL UNIQUE, "
    "amount INTEGER CHECK (amount < 10))"
)


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("INSERT INTO things (id, name) VALUES (1, 'x')", 409),
        ("INSERT INTO things (id, name) VALUES (2, 'c4nary')", 409),
        ("INSERT INTO children (id, parent_id) VALUES (1, 99)", 409),
        ("INSERT INTO things (id, name) VALUES (3, NULL)", 422),
        ("INSERT INTO things (id, name, amount) VALUES (4, 'x', 99)", 422),
    ],
)
async def test_a_constraint_is_the_callers_matter(database: Database, statement: str, status: int) -> None:
    error = await provoke(database, THINGS, "INSERT INTO things VALUES (1, 'c4nary', 1)", statement)

    assert answer(error).status == status


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("SELECT * FROM parents WHERE id = :value", {"value": 2**40}),
        ("SELECT * FROM parents WHERE id = :value", {"value": 2**70}),
        ("SELECT CAST(:value AS VARCHAR)", {"value": "\0"}),
        ("SELECT CAST(:value AS VARCHAR)", {"value": "\ud800"}),
        ("SELECT CAST('c4nary' AS INTEGER)", {}),
        ("SELECT CAST('2026-99-99' AS TIMESTAMP)", {}),
        ("SELECT CAST('{\"c4nary' AS JSONB)", {}),
        ("SELECT CAST('\"\\u0000\"' AS JSONB)", {}),
        ("SELECT 'x' ~ '['", {}),
        ("SELECT 1 LIMIT :value", {"value": -1}),
        ("SELECT CAST(3e9 AS INTEGER)", {}),
    ],
)
async def test_what_postgresql_cannot_hold_is_invalid_input(
    database: Database, statement: str, values: dict[str, Any]
) -> None:
    assert answer(await provoke(database, statement, **values)).status == 422


@pytest.mark.databases("postgresql")
async def test_a_text_too_long_for_its_column_or_its_index_is_invalid_input(database: Database) -> None:
    long = "INSERT INTO words SELECT string_agg(md5(CAST(n AS text)), '') FROM generate_series(1, 500) n"
    create = "CREATE TABLE words (word TEXT PRIMARY KEY, short VARCHAR(2))"

    for statement in (long, "INSERT INTO words VALUES ('x', 'long')"):
        error = await provoke(database, create, statement)
        assert answer(error).status == 422
        async with database.transaction() as session:
            await session.execute(text("DROP TABLE words"))


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("value", ["1", [1]])
async def test_a_value_of_the_wrong_type_is_the_services_own_fault(database: Database, value: Any) -> None:
    error = await provoke(database, "SELECT * FROM parents WHERE id = :value", value=value)

    assert as_app_error(error) is None


@pytest.mark.databases("postgresql")
async def test_a_refused_exclusion_is_a_conflict(database: Database) -> None:
    create = "CREATE TABLE spans (span int4range, EXCLUDE USING gist (span WITH &&))"
    error = await provoke(database, create, "INSERT INTO spans VALUES ('[1,3]'), ('[2,4]')")

    assert answer(error).status == 409


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("value", [2**70, "\ud800"])
async def test_what_sqlite_cannot_hold_is_invalid_input(database: Database, value: Any) -> None:
    statement = text("SELECT * FROM parents WHERE id = :value").bindparams(bindparam("value"))
    with pytest.raises(ColumnValueError) as refused:
        async with database.transaction() as session:
            await session.execute(statement, {"value": value})

    assert answer(refused.value).status == 422


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    "statement", ["SELECT zeroblob(2000000000)", "INSERT INTO parents VALUES ('c4nary')"]
)
async def test_what_sqlite_refuses_to_store_is_invalid_input(database: Database, statement: str) -> None:
    assert answer(await provoke(database, statement)).status == 422


@pytest.mark.databases("sqlite")
async def test_a_full_disk_stops_writes_and_not_reads(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("INSERT INTO parents VALUES (1)"))
        pages = await session.scalar(text("PRAGMA page_count"))
        await session.execute(text(f"PRAGMA max_page_count = {pages}"))
        with pytest.raises(DBAPIError) as full:
            await session.execute(text("CREATE TABLE large AS SELECT zeroblob(1000000) AS content"))
        await session.execute(text("PRAGMA max_page_count = 1000000"))
        await session.rollback()

    assert (answer(full.value).status, answer(full.value).code) == (507, "storage_full")
    async with database.reading() as session:
        assert await session.scalar(text("PRAGMA integrity_check")) == "ok"
    async with database.transaction() as session:
        await session.execute(text("INSERT INTO parents VALUES (2)"))


async def test_an_unknown_table_is_the_services_own_fault(database: Database) -> None:
    assert as_app_error(await provoke(database, "SELECT * FROM nowhere")) is None

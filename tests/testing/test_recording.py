"""What happened in a test: events, and the statements of a block."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select

from backstay.db import AsyncSession, Database
from backstay.events import QueryExecuted, TransactionCommitted, emit
from backstay.testing import Events, assert_queries

pytestmark = pytest.mark.databases("sqlite", "postgresql")

tables = MetaData()
notes = Table("notes", tables, Column("id", Integer, primary_key=True))


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


class TestAssertQueries:
    """The same number on every database."""

    async def test_the_right_number_passes(self, database: Database) -> None:
        async with assert_queries(2) as queries, database.transaction() as session:
            await session.execute(insert(notes))
            await session.execute(select(func.count()).select_from(notes))
        assert queries.statements[0].startswith("INSERT INTO notes")

    async def test_how_a_transaction_begins_and_ends_does_not_count(self, session: AsyncSession) -> None:
        with assert_queries(1):
            async with session.begin_nested():
                await session.execute(insert(notes))
            await session.commit()

    async def test_another_number_fails_and_lists_the_statements(self, session: AsyncSession) -> None:
        with pytest.raises(AssertionError) as failure:
            async with assert_queries(3):
                await session.execute(insert(notes).values(id=1))
                await session.execute(select(notes.c.id).where(notes.c.id == 1))
        head, first, second = str(failure.value).splitlines()
        assert head == "Expected 3 queries, and 2 ran."
        assert first.startswith("1. INSERT INTO notes")
        assert second.startswith("2. SELECT notes.id FROM notes WHERE")  # on one line

    async def test_a_limit_allows_fewer_and_not_more(self, session: AsyncSession) -> None:
        with assert_queries(at_most=2):
            await session.execute(select(notes))
        with (
            pytest.raises(AssertionError, match="Expected at most 0 queries, and 1 ran"),
            assert_queries(at_most=0),
        ):
            await session.execute(select(notes))

    def test_an_error_of_the_block_is_not_hidden(self) -> None:
        with pytest.raises(KeyError), assert_queries(1):
            raise KeyError

    @pytest.mark.parametrize("options", [{}, {"count": 1, "at_most": 2}])
    def test_it_takes_a_number_or_a_limit(self, options: dict[str, Any]) -> None:
        with pytest.raises(TypeError, match="a count, or at_most"):
            assert_queries(**options)

    async def test_the_fixture_is_the_same(
        self, session: AsyncSession, request: pytest.FixtureRequest
    ) -> None:
        assert request.getfixturevalue("assert_queries") is assert_queries


class TestEvents:
    """From the start of the test to its end."""

    async def test_nothing_has_happened_at_the_start(self, events: Events, database: Database) -> None:
        assert list(events) == []
        with pytest.raises(LookupError, match="No event was recorded"):
            _ = events.last

    async def test_they_come_in_order_and_by_kind(self, events: Events, database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(insert(notes))
        assert events.last == TransactionCommitted(writes=frozenset({"notes", "notes:*"}))
        assert [type(event) for event in events[-2:]] == [QueryExecuted, TransactionCommitted]
        assert events.of(TransactionCommitted) == [events[-1]]
        assert "TransactionCommitted" in repr(events)

    async def test_they_can_be_forgotten(self, events: Events, session: AsyncSession) -> None:
        await session.execute(select(notes))
        assert len(events) > 0
        events.clear()
        assert len(events) == 0

    async def test_iterating_while_more_happens_ends(self, events: Events) -> None:
        emit(TransactionCommitted(writes=frozenset()))
        for event in events:
            emit(event)
        assert len(events) == 2


@pytest.fixture
def arranged_before(events: Events, database_url: str) -> Iterator[Events]:
    """Recording that began before the database was made."""
    return iter([events])


async def test_what_the_plugin_does_is_not_recorded(
    arranged_before: Iterator[Events], database_url: str, events: Events
) -> None:
    """Databases are made and dropped on a thread beside the test: statements of nobody's code."""
    assert list(events) == []

"""Rows that count their changes, on SQLite and PostgreSQL."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import ForeignKey, MetaData, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from backstay.db import Database, Model, TimestampMixin, VersionMixin, as_app_error, version_of
from backstay.db.model import NAMING_CONVENTION
from backstay.errors import EditConflictError

pytestmark = pytest.mark.databases("sqlite", "postgresql")


class Base(Model):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Ship(VersionMixin, TimestampMixin, Base):
    """Its own mapper arguments, which would replace those of a mixin."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(default="ship")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "ship"}  # noqa: RUF012


class Yacht(Ship):
    """In a table of its own beside the parent's."""

    __tablename__ = "yachts"

    id: Mapped[int] = mapped_column(ForeignKey(Ship.id), primary_key=True)
    berths: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "yacht"}  # noqa: RUF012


class Barge(Ship):
    """In the parent's table."""

    __mapper_args__ = {"polymorphic_identity": "barge"}  # noqa: RUF012


class Unversioned(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class ShipRead(BaseModel):
    version: int


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Base.metadata


async def save(database: Database, *rows: object) -> None:
    async with database.transaction() as session:
        session.add_all(rows)


async def versions(database: Database) -> Sequence[int]:
    async with database.reading() as session:
        return (await session.scalars(select(Ship.version).order_by(Ship.id))).all()


async def rename_elsewhere(database: Database, ship_id: int) -> None:
    async with database.transaction() as session:
        (await session.get_one(Ship, ship_id)).name = "renamed elsewhere"


async def read_then_change(database: Database, kind: type[Any], *, remove: bool = False) -> None:
    """Change a row that another transaction has changed in between."""
    async with database.reading() as session:
        row = await session.get_one(kind, 1)
        session.expunge(row)
    async with database.transaction() as session:
        (await session.get_one(kind, 1)).name = "first"
    async with database.transaction() as session:
        session.add(row)
        if remove:
            await session.delete(row)
        else:
            row.name = "second"


class TestCounting:
    async def test_it_begins_at_1_and_rises_with_each_change(self, database: Database) -> None:
        ship = Ship(id=1, name="Ann")
        await save(database, ship)
        assert ship.version == 1

        async with database.transaction() as session:
            same = await session.get_one(Ship, 1)
            same.name = "Anne"
            await session.flush()
            assert same.version == 2  # without a query

        assert await versions(database) == [2]

    async def test_nothing_changed_is_no_change(self, database: Database) -> None:
        await save(database, Ship(id=1, name="Ann"))

        async with database.transaction() as session:
            (await session.get_one(Ship, 1)).name = "Ann"

        assert await versions(database) == [1]

    async def test_a_row_that_raw_sql_adds_has_version_1(self, database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(
                text(
                    "INSERT INTO ships (id, name, kind, created_at, updated_at) "
                    "VALUES (1, 'Ann', 'ship', '2026-01-01', '2026-01-01')"
                )
            )

        assert await versions(database) == [1]

    async def test_rows_of_one_insert_have_version_1(self, database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(insert(Ship), [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bea"}])

        assert await versions(database) == [1, 1]

    @pytest.mark.parametrize(
        "ship", [lambda: Yacht(id=1, name="Ann", berths=4), lambda: Barge(id=1, name="A")]
    )
    async def test_a_subclass_counts_in_the_table_of_its_parent(self, database: Database, ship: Any) -> None:
        row = ship()
        await save(database, row)

        async with database.transaction() as session:
            (await session.get_one(type(row), 1)).name = "Anne"

        assert await versions(database) == [2]

    async def test_a_change_in_the_own_table_of_a_subclass_counts(self, database: Database) -> None:
        await save(database, Yacht(id=1, name="Ann", berths=4))

        async with database.transaction() as session:
            (await session.get_one(Yacht, 1)).berths = 6

        assert await versions(database) == [2]

    async def test_what_lies_elsewhere_is_counted_by_hand(self, database: Database) -> None:
        await save(database, Ship(id=1, name="Ann"))

        async with database.transaction() as session:
            ship = await session.get_one(Ship, 1)
            ship.version += 1
            ship.name = "Anne"  # one change in all

        assert await versions(database) == [2]


class TestBulkUpdates:
    @pytest.fixture(autouse=True)
    async def fleet(self, database: Database) -> None:
        await save(database, Ship(id=1, name="Ann"), Yacht(id=2, name="Bea", berths=2))

    async def test_update_counts_in_the_database_and_in_the_session(self, database: Database) -> None:
        async with database.transaction() as session:
            loaded = await session.get_one(Ship, 1)
            await session.execute(update(Ship).where(Ship.id == 1).values(name="Anne"))
            assert (loaded.name, loaded.version) == ("Anne", 2)

        assert await versions(database) == [2, 1]

    async def test_update_with_an_expression_counts(self, database: Database) -> None:
        async with database.transaction() as session:
            returned = await session.scalars(
                update(Ship).values(name=func.upper(Ship.name)).returning(Ship.version)
            )
            assert returned.all() == [2, 2]

        assert await versions(database) == [2, 2]

    async def test_an_update_in_a_blocking_session_counts(self, database: Database) -> None:
        if database.is_postgresql:
            pytest.importorskip("psycopg")

        with database.sync_transaction() as session:
            session.execute(update(Ship).values(name="x"))

        assert await versions(database) == [2, 2]

    async def test_an_update_by_primary_key_is_held_against_the_version_that_it_brings(
        self, database: Database
    ) -> None:
        async with database.transaction() as session:
            await session.execute(update(Ship), [{"id": 1, "name": "Anne", "version": 1}])
        assert await versions(database) == [2, 1]

        with pytest.raises(StaleDataError):
            async with database.transaction() as session:
                await session.execute(update(Ship), [{"id": 1, "name": "Annie", "version": 1}])
        assert await versions(database) == [2, 1]

    async def test_an_update_of_the_own_table_of_a_subclass_does_not_count(self, database: Database) -> None:
        """The limit that the docstring names: the version lies in another table."""
        async with database.transaction() as session:
            await session.execute(update(Yacht).values(berths=8))

        assert await versions(database) == [1, 1]

    async def test_an_update_of_a_model_without_versions_is_left_alone(self, database: Database) -> None:
        await save(database, Unversioned(id=1, name="Ann"))

        async with database.transaction() as session:
            await session.execute(update(Unversioned).values(name="Anne"))
            assert await session.scalar(select(Unversioned.name)) == "Anne"


class TestConflicts:
    async def test_a_row_without_a_version_loses_the_first_of_two_changes(self, database: Database) -> None:
        """The fault, without our code: both changes succeed."""
        await save(database, Unversioned(id=1, name="Ann"))

        await read_then_change(database, Unversioned)

        async with database.reading() as session:
            assert await session.scalar(select(Unversioned.name)) == "second"

    @pytest.mark.parametrize("remove", [False, True])
    async def test_a_change_of_what_was_changed_since_is_refused(
        self, database: Database, remove: bool
    ) -> None:
        await save(database, Ship(id=1, name="Ann"))

        with pytest.raises(StaleDataError):
            await read_then_change(database, Ship, remove=remove)

        async with database.reading() as session:
            assert await session.scalar(select(Ship.name)) == "first"

    async def test_one_row_of_many_is_enough_to_refuse_all(self, database: Database) -> None:
        await save(database, *(Ship(id=number, name="Ann") for number in (1, 2, 3)))
        async with database.reading() as session:
            ships = (await session.scalars(select(Ship).order_by(Ship.id))).all()
            session.expunge_all()
        await rename_elsewhere(database, 2)

        with pytest.raises(StaleDataError):
            async with database.transaction() as session:
                session.add_all(ships)
                for ship in ships:
                    ship.name = "all"

        assert await versions(database) == [1, 2, 1]

    def test_it_is_a_conflict_for_the_caller(self) -> None:
        answer = as_app_error(StaleDataError())

        assert isinstance(answer, EditConflictError)
        assert (answer.status, answer.code) == (409, "edit_conflict")


class TestVersionOf:
    def test_a_new_row_has_none_yet(self) -> None:
        assert version_of(Ship(id=1, name="Ann")) is None

    def test_what_is_no_row_may_have_one(self) -> None:
        assert version_of(ShipRead(version=3)) == 3
        assert version_of(None) is None
        assert version_of(object()) is None

    async def test_a_row_that_would_need_a_query_has_none(self, database: Database) -> None:
        await save(database, Ship(id=1, name="Ann"))

        async with database.transaction() as session:
            ship = await session.get_one(Ship, 1)
            assert version_of(ship) == 1
            session.expire(ship)
            assert version_of(ship) is None


async def test_a_plain_session_notices_conflicts_too(database: Database) -> None:
    await save(database, Ship(id=1, name="Ann"))

    async with AsyncSession(database.engine) as session:
        ship = await session.get_one(Ship, 1)
        session.expunge_all()
        await session.rollback()
        await rename_elsewhere(database, 1)
        session.add(ship)
        ship.name = "late"
        with pytest.raises(StaleDataError):
            await session.commit()

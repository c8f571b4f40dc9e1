"""Tables that no model declares, and CHECK constraints: what Alembic drops, and what it loses."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from backstay.db.migrations import (
    Migrations,
    NothingToMigrateError,
    UndeclaredTablesError,
    UndroppableTableError,
)
from backstay.db.model import NAMING_CONVENTION
from backstay.db.types import Integer, Numeric, String, UTCDateTime
from backstay.settings import MigrationSettings

from .conftest import Base, run, scalar, tables

pytestmark = pytest.mark.databases("sqlite", "postgresql")


def without(metadata: sa.MetaData, table: str) -> sa.MetaData:
    """The same models, one of which was not imported."""
    imported = sa.MetaData(naming_convention=NAMING_CONVENTION)
    for one in metadata.sorted_tables:
        if one.name != table:
            one.to_metadata(imported)
    return imported


async def compare(engine: AsyncEngine, metadata: sa.MetaData) -> list[Any]:
    """Do what `alembic check` does."""

    def look(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with engine.connect() as connection:
        return await connection.run_sync(look)


@pytest.fixture
async def migrated(engine: AsyncEngine, migrations: Migrations) -> AsyncEngine:
    """A database with the tables of all models."""
    await migrations.revision(engine, message="Add sails")
    await migrations.upgrade(engine)
    return engine


class TestUndeclaredTables:
    async def test_a_model_that_was_not_imported_is_refused_with_its_name(
        self, migrated: AsyncEngine, migrations: Migrations, directory: Path
    ) -> None:
        imported = without(Base.metadata, "battens")
        assert ("remove_table", "battens") in [
            (kind, getattr(item, "name", None)) for kind, item, *_ in await compare(migrated, imported)
        ]

        with pytest.raises(UndeclaredTablesError, match="No imported model declares battens") as caught:
            await Migrations(imported, directory).revision(migrated, message="Add nothing")

        assert caught.value.tables == ("battens",)
        assert caught.value.hint is not None
        assert "--drop battens" in caught.value.hint
        assert "migrations.foreign_tables" in caught.value.hint
        assert len(migrations.history()) == 1

    async def test_a_table_that_is_meant_is_dropped_and_comes_back_as_it_was(
        self, migrated: AsyncEngine, migrations: Migrations, directory: Path
    ) -> None:
        later = Migrations(without(Base.metadata, "battens"), directory)

        path = await later.revision(migrated, message="Drop battens", drop=["battens"])
        await later.upgrade(migrated)

        assert await tables(migrated) == {"sails"}
        assert await later.check(migrated) == ()
        await later.downgrade(migrated, revision="-1")
        path.unlink()
        assert await migrations.check(migrated) == ()

    async def test_a_dropped_table_comes_back_with_its_checks(
        self, engine: AsyncEngine, directory: Path
    ) -> None:
        both, none = sa.MetaData(naming_convention=NAMING_CONVENTION), sa.MetaData()
        sa.Table(
            "prices",
            both,
            sa.Column("id", Integer(), primary_key=True),
            sa.Column("amount", Numeric(12, 2), nullable=False),
            sa.Column("paid_at", UTCDateTime(), index=True),
            sa.Column("currency", String(3), server_default="EUR", nullable=False),
            sa.CheckConstraint("amount > 0", name="amount"),
        )
        await Migrations(both, directory).revision(engine, message="Add prices")
        await Migrations(both, directory).upgrade(engine)

        path = await Migrations(none, directory).revision(engine, message="Drop prices", drop=["prices"])
        await Migrations(none, directory).upgrade(engine)
        await Migrations(none, directory).downgrade(engine, revision="-1")
        path.unlink()

        assert await Migrations(both, directory).check(engine) == ()

    @pytest.mark.parametrize(
        ("table", "reason"),
        [
            ("sails", "a model declares it"),
            ("battns", "the database has no such table. Did you mean 'battens'?"),
            ("alembic_version", "it is the library's own"),
            ("backstay_outbox", "it is the library's own"),
        ],
    )
    async def test_what_must_not_be_dropped_is_refused(
        self, migrated: AsyncEngine, directory: Path, table: str, reason: str
    ) -> None:
        later = Migrations(without(Base.metadata, "battens"), directory)

        with pytest.raises(UndroppableTableError) as caught:
            await later.revision(migrated, message="Drop", drop=["battens", table])

        assert str(caught.value).startswith(f"The table {table!r} cannot be dropped: {reason}")
        assert caught.value.hint is not None

    async def test_tables_of_others_and_of_the_library_are_never_in_question(
        self, migrated: AsyncEngine, directory: Path
    ) -> None:
        for table in ("spatial_ref_sys", "audit_users", "backstay_outbox"):
            await run(migrated, f"CREATE TABLE {table} (id INTEGER)")
        settings = MigrationSettings(foreign_tables=("spatial_ref_sys", "audit_*"))
        migrations = Migrations(Base.metadata, directory, settings=settings)

        with pytest.raises(NothingToMigrateError):
            await migrations.revision(migrated, message="Add nothing")
        assert await migrations.check(migrated) == ()


def aged(*inside: sa.CheckConstraint, beside: sa.CheckConstraint | None = None) -> sa.MetaData:
    """People with an age, checked inside of the column or beside it; without a naming convention."""
    metadata = sa.MetaData()
    age: sa.Column[Any] = sa.Column("age", Integer(), *inside)
    people = sa.Table("people", metadata, sa.Column("id", Integer(), primary_key=True), age)
    if beside is not None:
        people.append_constraint(beside)
    return metadata


def checked(text: str = "age > 0", name: str | None = None) -> sa.CheckConstraint:
    return sa.CheckConstraint(text, name=name)


async def add_person(engine: AsyncEngine, *, age: int) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.text("INSERT INTO people (age) VALUES (:age)"), {"age": age})


@pytest.fixture
async def role(engine: AsyncEngine) -> AsyncIterator[str]:
    """A user without rights."""
    name = f"backstay_test_{uuid4().hex}"
    await run(engine, f"CREATE ROLE {name}")
    yield name
    await run(engine, f"DROP ROLE {name}")


class TestChecks:
    @pytest.mark.parametrize("name", [None, "ck_age"])
    async def test_a_check_inside_of_a_column_that_alembic_loses_is_found(
        self, engine: AsyncEngine, directory: Path, name: str | None
    ) -> None:
        """The fault first: Alembic adds the column without its CHECK and then calls the database clean."""
        await run(engine, "CREATE TABLE people (id INTEGER PRIMARY KEY NOT NULL, age INTEGER)")
        metadata = aged(checked(name=name))
        for column in metadata.tables["people"].columns:
            column.type = sa.Integer()
        assert await compare(engine, metadata) == []

        assert await Migrations(metadata, directory).check(engine) == (
            f"CHECK {name or 'ck_people_age'} on people: not in the database as CHECK (age > 0)",
        )

    @pytest.mark.parametrize("name", [None, "ck_age"])
    async def test_a_column_is_added_with_its_check(
        self, engine: AsyncEngine, directory: Path, name: str | None
    ) -> None:
        without_age, with_age = sa.MetaData(), aged(checked(name=name))
        sa.Table("people", without_age, sa.Column("id", Integer(), primary_key=True))
        first = Migrations(without_age, directory)
        await first.revision(engine, message="Add people")
        await first.upgrade(engine)

        later = Migrations(with_age, directory)
        path = await later.revision(engine, message="Add ages")
        await later.upgrade(engine)

        assert await later.check(engine) == ()
        await add_person(engine, age=1)
        with pytest.raises(sa.exc.IntegrityError):
            await add_person(engine, age=-1)
        await later.downgrade(engine, revision="-1")
        path.unlink()
        assert await first.check(engine) == ()

    @pytest.mark.parametrize("name", [None, "ck_age"])
    async def test_a_new_table_keeps_the_check_inside_of_its_column(
        self, engine: AsyncEngine, directory: Path, name: str | None
    ) -> None:
        migrations = Migrations(aged(checked(name=name)), directory)
        await migrations.revision(engine, message="Add people")
        await migrations.upgrade(engine)

        with pytest.raises(sa.exc.IntegrityError):
            await add_person(engine, age=-1)
        assert await migrations.check(engine) == ()

    @pytest.mark.parametrize("is_inside", [True, False])
    async def test_a_check_whose_text_has_changed_is_found_and_changed(
        self, engine: AsyncEngine, directory: Path, is_inside: bool
    ) -> None:
        children, adults = checked("age > 0", "ck_age"), checked("age > 17 OR age = 3", "ck_age")
        first = Migrations(aged(children) if is_inside else aged(beside=children), directory)
        later = Migrations(aged(adults) if is_inside else aged(beside=adults), directory)
        await first.revision(engine, message="Add people")
        await first.upgrade(engine)
        assert len(await later.check(engine)) == 2

        path = await later.revision(engine, message="Adults")
        await later.upgrade(engine)

        assert await later.check(engine) == ()
        with pytest.raises(sa.exc.IntegrityError):
            await add_person(engine, age=10)
        await later.downgrade(engine, revision="-1")
        path.unlink()
        assert await first.check(engine) == ()
        await add_person(engine, age=10)

    @pytest.mark.parametrize(
        "text",
        [
            "age IN (1, 2)",
            "age BETWEEN 1 AND 9",
            "(age > 0)   AND\n (age < 9)",
            "name LIKE 'a%' OR name = 'It''s (Me'",
            "NOT (age IS NULL AND name IS NULL)",
            "length(name) > 2",
        ],
    )
    async def test_the_same_text_is_the_same_however_the_database_keeps_it(
        self, engine: AsyncEngine, directory: Path, text: str
    ) -> None:
        metadata = aged(beside=checked(text))
        metadata.tables["people"].append_column(sa.Column("name", sa.Text()))
        migrations = Migrations(metadata, directory)
        await migrations.revision(engine, message="Add people")
        await migrations.upgrade(engine)

        assert await migrations.check(engine) == ()

    async def test_a_check_that_no_model_has_is_found_and_removed(
        self, engine: AsyncEngine, directory: Path
    ) -> None:
        await Migrations(aged(beside=checked(name="ck_age")), directory).revision(engine, message="People")
        later = Migrations(aged(), directory)
        await later.upgrade(engine)
        assert await later.check(engine) == ("CHECK ck_age on people: only in the database",)

        await later.revision(engine, message="Any age")
        await later.upgrade(engine)

        await add_person(engine, age=-1)
        assert await later.check(engine) == ()

    @pytest.mark.databases("sqlite")
    async def test_a_check_without_a_name_that_no_model_has_is_left_alone_and_told(
        self, engine: AsyncEngine, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        await run(
            engine, "CREATE TABLE people (id INTEGER PRIMARY KEY NOT NULL, age INTEGER CHECK (age > 0))"
        )

        assert await Migrations(aged(), directory).check(engine) == ()
        assert "Left a CHECK without a name on people alone: no model has it" in caplog.messages

    @pytest.mark.databases("postgresql")
    @pytest.mark.parametrize("name", [None, "ck_age"])
    async def test_a_user_who_may_not_make_temporary_tables_compares_by_name(
        self, engine: AsyncEngine, directory: Path, role: str, name: str | None
    ) -> None:
        migrations = Migrations(aged(checked(name=name)), directory)
        await migrations.revision(engine, message="Add people")
        await migrations.upgrade(engine)
        await run(engine, "REVOKE ALL ON DATABASE " + str(engine.url.database) + " FROM PUBLIC")
        await run(engine, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")

        async with engine.connect() as connection:
            await connection.exec_driver_sql(f"SET ROLE {role}")
            await connection.commit()
            assert await connection.run_sync(migrations.check_on) == ()
            missing = Migrations(aged(checked(name=name), beside=checked("age < 9", "ck_old")), directory)
            assert await connection.run_sync(missing.check_on) == (
                "CHECK ck_old on people: not in the database as CHECK (age < 9)",
            )
            await connection.exec_driver_sql("RESET ROLE")
            await connection.exec_driver_sql(f"DROP OWNED BY {role}")
            await connection.commit()

    async def test_looking_leaves_nothing_behind(self, engine: AsyncEngine, directory: Path) -> None:
        migrations = Migrations(aged(checked()), directory)
        await migrations.revision(engine, message="Add people")
        await migrations.upgrade(engine)
        await migrations.check(engine)

        assert await tables(engine) == {"people"}
        if engine.dialect.name == "postgresql":
            assert (
                await scalar(engine, "SELECT count(*) FROM pg_class WHERE relname = 'backstay_checks'") == 0
            )


class TestDrift:
    async def test_a_database_that_has_all_migrations_is_clean(
        self, migrated: AsyncEngine, migrations: Migrations
    ) -> None:
        assert await migrations.check(migrated) == ()

    async def test_pending_migrations_are_told_alone(
        self, engine: AsyncEngine, migrations: Migrations
    ) -> None:
        path = await migrations.revision(engine, message="Add sails")

        assert await migrations.check(engine) == (f"migration {path.name}: pending",)

    async def test_each_difference_is_a_line(self, engine: AsyncEngine, directory: Path) -> None:
        def make(*columns: sa.Column[Any], index: str) -> sa.MetaData:
            metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
            sa.Table("users", metadata, sa.Column("id", Integer(), primary_key=True), *columns)
            sa.Index(index, metadata.tables["users"].c.email)
            return metadata

        before = make(
            sa.Column("email", String(120)),
            sa.Column("age", Integer(), server_default="1"),
            sa.Column("nick", String(9), unique=True),
            index="ix_old",
        )
        after = make(
            sa.Column("email", String(254), nullable=False),
            sa.Column("age", Integer()),
            sa.Column("team_id", sa.ForeignKey("teams.id")),
            index="ix_new",
        )
        sa.Table("teams", after, sa.Column("id", Integer(), primary_key=True))
        await Migrations(before, directory).revision(engine, message="Add users")
        await Migrations(before, directory).upgrade(engine)
        await run(engine, "CREATE TABLE strangers (id INTEGER)")

        found = await Migrations(after, directory).check(engine)

        one = "'1'::bigint" if engine.dialect.name == "postgresql" else "'1'"
        assert sorted(found) == sorted(
            [
                f"column users.age: no server default, database has server default {one}",
                "column users.email: NOT NULL, database has NULL",
                "column users.email: type VARCHAR(254), database has VARCHAR(120)",
                "column users.nick: only in the database",
                "column users.team_id: not in the database",
                "foreign key fk_users_team_id_teams on users: not in the database",
                "index ix_new on users: not in the database",
                "index ix_old on users: only in the database",
                "table strangers: only in the database, no model declares it",
                "table teams: not in the database",
                "unique constraint uq_users_nick on users: only in the database",
            ]
        )

    @pytest.mark.databases("postgresql")
    async def test_comments_are_compared_where_the_database_keeps_them(
        self, engine: AsyncEngine, directory: Path
    ) -> None:
        metadata = aged()
        migrations = Migrations(metadata, directory)
        await migrations.revision(engine, message="Add people")
        await migrations.upgrade(engine)
        metadata.tables["people"].comment = metadata.tables["people"].c.age.comment = "in years"

        assert sorted(await migrations.check(engine)) == [
            "column people.age: comment 'in years', database has None",
            "table people: CreateTableComment would be needed",
        ]

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from backstay.db.migrations import (
    MigrationError,
    Migrations,
    MigrationsPendingError,
    NothingToMigrateError,
)
from backstay.db.migrations._source import tidy
from backstay.db.model import NAMING_CONVENTION
from backstay.db.types import JSON, Enum, Float, Integer, Numeric, String, UTCDateTime, Uuid

from .conftest import Base, Batten, Colour, OpenEngine, Sail, Versions, scalar, tables


async def test_a_written_migration_makes_the_tables_of_the_models(
    empty_engine: AsyncEngine, migrations: Migrations
) -> None:
    path = await migrations.revision(empty_engine, message="Add sails")
    done = await migrations.upgrade(empty_engine)

    assert [revision.path for revision in done] == [path]
    assert await tables(empty_engine) == {"sails", "battens"}
    async with empty_engine.begin() as connection:
        await connection.execute(
            sa.insert(Sail).values(name="jib", area=1.0, price=Decimal("0.10"), colour=Colour.RED, payload={})
        )
        row = (
            await connection.execute(sa.select(Sail.price, Sail.colour, Sail.reefs, Sail.is_set, Sail.maker))
        ).one()
    assert tuple(row) == (Decimal("0.10"), Colour.RED, 2, False, "it's unknown")


async def test_right_after_an_upgrade_there_is_nothing_to_migrate(
    empty_engine: AsyncEngine, migrations: Migrations
) -> None:
    first = await migrations.revision(empty_engine, message="Add sails")
    await migrations.upgrade(empty_engine)

    with pytest.raises(NothingToMigrateError) as caught:
        await migrations.revision(empty_engine, message="Add nothing")
    assert caught.value.hint is not None
    assert list(first.parent.glob("*.py")) == [first]


async def test_down_and_up_again_ends_where_it_was(empty_engine: AsyncEngine, migrations: Migrations) -> None:
    await migrations.revision(empty_engine, message="Add sails")
    await migrations.upgrade(empty_engine)

    await migrations.downgrade(empty_engine, revision="base")
    assert await tables(empty_engine) == set()
    assert await migrations.current(empty_engine) == ()

    await migrations.upgrade(empty_engine)
    with pytest.raises(NothingToMigrateError):
        await migrations.revision(empty_engine, message="Add nothing")


async def test_a_migration_written_on_one_database_serves_the_other(
    migrations: Migrations, open_engine: OpenEngine, empty_url: str, backend: str, tmp_path: Path
) -> None:
    sqlite = open_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")
    served = open_engine(empty_url)
    await migrations.revision(sqlite, message="Add sails")
    await migrations.upgrade(served)

    with pytest.raises(NothingToMigrateError):
        await migrations.revision(served, message="Add nothing")


def altered(metadata: sa.MetaData) -> sa.MetaData:
    """The same tables after a year: a column gone, some new, one wider, one nullable, a new CHECK."""
    later = sa.MetaData(naming_convention=NAMING_CONVENTION)
    for table in metadata.sorted_tables:
        table.to_metadata(later)
    sails = later.tables["sails"]
    sails._columns.remove(sails.c.seen_at)
    sails._columns.remove(sails.c.payload)
    sails.append_column(sa.Column("sold_at", UTCDateTime()))
    sails.append_column(sa.Column("weight", Numeric(6, 3)))
    sails.append_column(sa.Column("size", Enum(("small", "large")), server_default="small", nullable=False))
    sails.append_constraint(sa.CheckConstraint("reefs < 9", name="reefs"))
    sails.c.name.type = String(80)
    sails.c.area.nullable = True
    sails.c.reefs.server_default = sa.DefaultClause("3")
    return later


async def test_altered_tables_are_migrated_with_their_rows_up_and_down(
    empty_engine: AsyncEngine, migrations: Migrations, directory: Path
) -> None:
    await migrations.revision(empty_engine, message="Add sails")
    await migrations.upgrade(empty_engine)
    sail = uuid.uuid4()
    async with empty_engine.begin() as connection:
        await connection.execute(
            sa.insert(Sail).values(id=sail, name="jib", area=1.0, price=Decimal("0.10"), colour=Colour.RED)
        )
        await connection.execute(sa.insert(Batten).values(sail_id=sail))
    later = Migrations(altered(Base.metadata), directory)

    path = await later.revision(empty_engine, message="Alter sails")
    await later.upgrade(empty_engine)

    with pytest.raises(NothingToMigrateError):
        await later.revision(empty_engine, message="Add nothing")
    assert await scalar(empty_engine, "SELECT size FROM sails") == "small"
    assert await scalar(empty_engine, "SELECT count(*) FROM battens") == 1
    await migrations.downgrade(empty_engine, revision="-1")
    assert await scalar(empty_engine, "SELECT count(*) FROM battens") == 1
    path.unlink()
    with pytest.raises(NothingToMigrateError):
        await migrations.revision(empty_engine, message="Add nothing")


async def test_an_alteration_written_on_sqlite_serves_postgresql_up_and_down(
    migrations: Migrations,
    open_engine: OpenEngine,
    empty_engine: AsyncEngine,
    directory: Path,
    tmp_path: Path,
) -> None:
    sqlite = open_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")
    later = Migrations(altered(Base.metadata), directory)
    await migrations.revision(sqlite, message="Add sails")
    await migrations.upgrade(sqlite)
    path = await later.revision(sqlite, message="Alter sails")

    await later.upgrade(empty_engine)
    with pytest.raises(NothingToMigrateError):
        await later.revision(empty_engine, message="Add nothing")
    await later.downgrade(empty_engine, revision="-1")
    path.unlink()
    with pytest.raises(NothingToMigrateError):
        await migrations.revision(empty_engine, message="Add nothing")


async def test_a_written_migration_names_the_portable_types_and_imports_them(
    empty_engine: AsyncEngine, migrations: Migrations
) -> None:
    path = await migrations.revision(empty_engine, message="Add sails")

    source = path.read_text()
    assert source.startswith(
        '"""Add sails."""\n\nimport backstay.db.types\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
    )
    for column_type in (
        "UTCDateTime()",
        "Uuid()",
        "Numeric(12, 2)",
        "String(40)",
        "JSON()",
        "Float()",
        "Integer()",
    ):
        assert f"backstay.db.types.{column_type}" in source
    assert '"colour", sa.String(), nullable=False' in source
    assert "sa.CheckConstraint(\"colour IN ('red', 'blue')\", name=op.f(\"ck_sails_colour\"))" in source


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_written_migrations_are_clean_for_ruff_and_mypy(
    empty_engine: AsyncEngine, migrations: Migrations, directory: Path
) -> None:
    await migrations.revision(empty_engine, message='Add "sails"\nand \\ more')
    await migrations.upgrade(empty_engine)
    later = Migrations(altered(Base.metadata), directory)
    await later.revision(empty_engine, message="Alter sails!")
    await migrations.revision(empty_engine, message="By hand", autogenerate=False)
    (directory / "pyproject.toml").write_text(
        "[tool.ruff]\nline-length = 110\n"
        '[tool.ruff.lint]\nselect = ["ALL"]\nignore = ["COM812", "CPY", "D203", "D213", "INP001"]\n'
    )

    for arguments in (
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        ["ruff", "format", "--no-cache", "--check", "--line-length", "88", "."],
        ["mypy", "--strict", "--cache-dir", os.devnull, "--config-file", os.devnull, "versions"],
    ):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", *arguments],
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


async def test_a_changed_default_is_noticed_and_an_index_alone_needs_no_more_imports(
    empty_engine: AsyncEngine, migrations: Migrations, directory: Path
) -> None:
    await migrations.revision(empty_engine, message="Add sails")
    await migrations.upgrade(empty_engine)
    later = sa.MetaData(naming_convention=NAMING_CONVENTION)
    for table in Base.metadata.sorted_tables:
        table.to_metadata(later)
    sa.Index(None, later.tables["sails"].c.text)
    changed = Migrations(later, directory)

    path = await changed.revision(empty_engine, message="Index text")
    assert "\nfrom alembic import op\n" in path.read_text()
    assert "import sqlalchemy" not in path.read_text()
    await changed.upgrade(empty_engine)
    later.tables["sails"].c.is_set.server_default = sa.DefaultClause(sa.true())
    path = await changed.revision(empty_engine, message="Set sails")
    assert "server_default=sa.true()" in path.read_text()
    await changed.upgrade(empty_engine)
    with pytest.raises(NothingToMigrateError):
        await changed.revision(empty_engine, message="Add nothing")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1\ny = 'a'", "    x = 1\n    y = 'a'"),
        ("pass", "    pass"),
        ("f((1,), ('a', 2))", '    f((1,), ("a", 2))'),
        ("f('it\\'s', 'say \"x\"')", '    f("it\'s", \'say "x"\')'),
        (
            f"f(['{'x' * 50}', '{'y' * 50}'])",
            f'    f(\n        [\n            "{"x" * 50}",\n            "{"y" * 50}",\n        ],\n    )',
        ),
        (f"f({'x' * 100})", f"    f(\n        {'x' * 100},\n    )"),
    ],
)
def test_statements_are_laid_out_as_the_formatter_would(code: str, expected: str) -> None:
    assert tidy(code) == expected


async def test_the_file_name_sorts_by_time_and_says_what_it_does(
    empty_engine: AsyncEngine, migrations: Migrations
) -> None:
    path = await migrations.revision(empty_engine, message="Add sails")

    match = re.fullmatch(r"(\d{8}_\d{4})_add_sails_([0-9a-f]{12})\.py", path.name)
    assert match is not None
    written = datetime.strptime(match[1], "%Y%m%d_%H%M").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - written) < timedelta(minutes=2)
    assert [(r.id, r.message, r.path) for r in migrations.history()] == [(match[2], "Add sails", path)]


async def test_a_migration_by_hand_is_empty_and_runs(
    empty_engine: AsyncEngine, migrations: Migrations
) -> None:
    path = await migrations.revision(empty_engine, message="By hand", autogenerate=False)

    await migrations.upgrade(empty_engine)

    assert "import" not in path.read_text()
    assert [revision.path for revision in await migrations.current(empty_engine)] == [path]


async def test_a_type_of_the_service_is_imported(
    empty_engine: AsyncEngine, directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shop_types.py").write_text(
        "import sqlalchemy as sa\nclass Code(sa.String):\n    pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import shop_types  # type: ignore[import-not-found]

    metadata = sa.MetaData()
    sa.Table("parcels", metadata, sa.Column("code", shop_types.Code(length=3), primary_key=True))
    migrations = Migrations(metadata, directory)

    path = await migrations.revision(empty_engine, message="Add parcels")

    assert "import shop_types\n" in path.read_text()
    assert "shop_types.Code(length=3)" in path.read_text()
    await migrations.upgrade(empty_engine)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_what_alembic_cannot_compare_is_logged(
    empty_engine: AsyncEngine, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = sa.MetaData()
    table = sa.Table("things", metadata, sa.Column("name", String(), primary_key=True))
    sa.Index("ix_things_lower_name", sa.func.lower(table.c.name))

    await Migrations(metadata, directory).revision(empty_engine, message="Add things")

    assert "expression-based index 'ix_things_lower_name'" in caplog.text


async def test_a_native_type_is_imported_from_its_dialect(
    open_engine: OpenEngine, directory: Path, tmp_path: Path
) -> None:
    metadata = sa.MetaData()
    array = sa.JSON().with_variant(sa.dialects.postgresql.ARRAY(sa.Text()), "postgresql")
    sa.Table("lists", metadata, sa.Column("id", Integer(), primary_key=True), sa.Column("items", array))
    engine = open_engine(f"sqlite+aiosqlite:///{tmp_path / 'native.db'}")

    path = await Migrations(metadata, directory).revision(engine, message="Add lists")

    assert "from sqlalchemy.dialects import postgresql\n" in path.read_text()
    assert "sa.JSON().with_variant(postgresql.ARRAY(" in path.read_text()


@pytest.mark.parametrize("message", ["", "  ", "!?"])
async def test_a_migration_needs_a_message(
    empty_engine: AsyncEngine, migrations: Migrations, message: str
) -> None:
    with pytest.raises(MigrationError, match="needs a message"):
        await migrations.revision(empty_engine, message=message)


async def test_a_migration_is_not_written_on_a_database_that_is_behind(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)

    with pytest.raises(MigrationsPendingError):
        await migrations.revision(empty_engine, message="Add sails")
    assert [path.name for path in versions.folder.glob("*.py")] == ["one.py"]


def test_every_type_that_a_migration_names_can_be_imported_from_there() -> None:
    import backstay.db.types

    for column_type in (JSON(), Float(), Integer(), Numeric(4, 2), String(7), UTCDateTime(), Uuid()):
        assert repr(eval(f"backstay.db.types.{column_type!r}", {"backstay": backstay})) == repr(column_type)  # noqa: S307

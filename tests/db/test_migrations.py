from __future__ import annotations

import asyncio
import enum
import logging
import os
import re
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapped, mapped_column

from backstay.db.migrations import (
    BrokenMigrationError,
    ForeignKeysBrokenError,
    MigrationError,
    MigrationFailedError,
    Migrations,
    MigrationsLockedError,
    MigrationsPendingError,
    MultipleHeadsError,
    NothingToMigrateError,
    Revision,
    UnknownRevisionError,
)
from backstay.db.migrations._source import tidy
from backstay.db.model import NAMING_CONVENTION, Model, TimestampMixin, new_id
from backstay.db.types import JSON, Enum, Float, Integer, Numeric, String, UTCDateTime, Uuid
from backstay.errors import ConfigurationError, UsageError

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


# -- writing


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


async def test_a_table_that_no_model_declares_is_left_alone_and_named(
    empty_engine: AsyncEngine, migrations: Migrations, caplog: pytest.LogCaptureFixture
) -> None:
    await run(empty_engine, "CREATE TABLE strangers (id INTEGER)")

    path = await migrations.revision(empty_engine, message="Add sails")

    assert "strangers" not in path.read_text()
    assert "Left the table strangers alone: no model declares it" in caplog.messages


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


# -- where a database stands


async def test_history_current_and_pending_tell_what_the_files_say(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    for revision, parent in (("one", None), ("two", "one"), ("three", "two")):
        versions.write_table(revision, parent)

    assert ids(migrations.history()) == ["three", "two", "one"]
    assert ids(migrations.heads()) == ["three"]
    assert ids(await migrations.current(empty_engine)) == []
    assert ids(await migrations.upgrade(empty_engine, revision="two")) == ["one", "two"]
    assert ids(await migrations.current(empty_engine)) == ["two"]
    assert ids(await migrations.pending(empty_engine)) == ["three"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["+1"], ["one"]),
        (["+2", "+1"], ["three"]),
        (["one+1"], ["two"]),
        (["head", "-1"], ["two"]),
        (["heads", "-2"], ["one"]),
        (["thre", "-1"], ["two"]),
        (["head", "base"], []),
        (["head", "head"], ["three"]),
    ],
)
async def test_a_target_may_be_relative_or_abbreviated(
    empty_engine: AsyncEngine,
    migrations: Migrations,
    versions: Versions,
    steps: list[str],
    expected: list[str],
) -> None:
    for revision, parent in (("one", None), ("two", "one"), ("three", "two")):
        versions.write_table(revision, parent)

    for step in steps:
        goes_down = step == "base" or step.startswith("-")
        await (migrations.downgrade if goes_down else migrations.upgrade)(empty_engine, revision=step)

    assert ids(await migrations.current(empty_engine)) == expected


async def test_no_migrations_at_all_is_a_state_like_any_other(
    empty_engine: AsyncEngine, migrations: Migrations
) -> None:
    assert migrations.history() == ()
    assert await migrations.upgrade(empty_engine) == ()
    assert await migrations.pending(empty_engine) == ()
    await migrations.require_current(empty_engine)
    assert await tables(empty_engine) == set()


async def test_branches_merges_and_dependencies_run_in_order(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("root", None)
    versions.write_table("left", "root")
    right = versions.write_table("right", "root")
    right.write_text(right.read_text() + "depends_on: tuple[str, ...] = ('left',)\nother: int\nop.x = 1\n")
    versions.write("merged", ("left", "right"))

    assert ids(migrations.heads()) == ["merged"]
    await migrations.upgrade(empty_engine, revision="left")
    assert ids(await migrations.pending(empty_engine)) == ["right", "merged"]
    assert ids(await migrations.upgrade(empty_engine)) == ["right", "merged"]
    await migrations.downgrade(empty_engine, revision="root")
    assert await tables(empty_engine) == {"t_root"}


async def test_a_database_that_is_behind_stops_the_start_and_names_the_command(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    with pytest.raises(MigrationsPendingError, match=r"lacks 1 migration, up to one\.py") as caught:
        await migrations.require_current(empty_engine)
    assert caught.value.hint == "Run `backstay db upgrade`."
    assert isinstance(caught.value, ConfigurationError)
    assert ids(caught.value.pending) == ["one"]

    versions.write_table("two", "one")
    with pytest.raises(MigrationsPendingError, match="lacks 2 migrations"):
        await migrations.require_current(empty_engine)
    await migrations.upgrade(empty_engine)
    await migrations.require_current(empty_engine)


async def test_a_database_that_is_ahead_lets_old_code_start_and_refuses_to_migrate(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, caplog: pytest.LogCaptureFixture
) -> None:
    versions.write_table("one", None)
    newer = versions.write_table("two", "one")
    await migrations.upgrade(empty_engine)
    newer.unlink()

    await migrations.require_current(empty_engine)
    assert "The database is at revision 'two', which no migration file here has." in caplog.messages
    with pytest.raises(UnknownRevisionError, match="at revision 'two'"):
        await migrations.upgrade(empty_engine)
    with pytest.raises(UnknownRevisionError, match="at revision 'two'"):
        await migrations.current(empty_engine)


# -- mistakes


async def test_two_heads_are_named_with_the_way_out(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    versions.write_table("left", "one")
    versions.write_table("right", "one")

    for attempt in (
        partial(migrations.upgrade, empty_engine),
        partial(migrations.upgrade, empty_engine, revision="+2"),
        partial(migrations.revision, empty_engine, message="More"),
    ):
        with pytest.raises(
            MultipleHeadsError, match=r"2 migrations claim to be the last: left\.py, right\.py"
        ) as caught:
            await attempt()
        assert caught.value.hint == 'Put them in a row: write down_revision = "left" into right.py.'
    assert await tables(empty_engine) == set()


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
async def test_an_unknown_revision_is_named_with_the_nearest(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, direction: str
) -> None:
    versions.write_table("three", None)

    with pytest.raises(
        UnknownRevisionError, match=r"has the revision 'thre2'\. Did you mean 'three'\?"
    ) as caught:
        await getattr(migrations, direction)(empty_engine, revision="thre2")
    assert caught.value.revision == "thre2"


async def test_more_steps_than_there_are_is_a_clear_error(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)

    with pytest.raises(MigrationError, match="Relative revision"):
        await migrations.downgrade(empty_engine, revision="-3")


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("revision = 'x'\ndef upgrade(:\n    pass\n", 2, "SyntaxError"),
        ("x = 1\n", 1, "does not say which it is"),
        ("\nrevision = make()\n", 2, "written out, not computed"),
        (
            "revision = 'x'\ndown_revision = None\nimport no_such_module\n",
            3,
            "No module named 'no_such_module'",
        ),
        ("revision = 'x'\ndown_revision = None\n\n\nboom = 1 / 0\n", 5, "ZeroDivisionError"),
    ],
)
async def test_a_file_that_cannot_be_read_is_named_with_its_line(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, source: str, line: int, reason: str
) -> None:
    path = versions.folder / "broken.py"
    path.write_text(source)

    with pytest.raises(BrokenMigrationError, match=reason) as caught:
        await migrations.upgrade(empty_engine)
    assert (caught.value.path, caught.value.line) == (path, line)
    assert f"{path}, line {line}" in str(caught.value)


async def test_an_error_of_alembic_itself_is_not_blamed_on_a_file(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic.script import ScriptDirectory

    def fail(_: object) -> None:
        raise RuntimeError("not a file's fault")

    monkeypatch.setattr(ScriptDirectory, "get_heads", fail)
    with pytest.raises(RuntimeError, match="not a file's fault"):
        await migrations.upgrade(empty_engine)


def test_files_that_do_not_fit_together_are_named(migrations: Migrations, versions: Versions) -> None:
    one = versions.write("one", "zero")
    with pytest.raises(MigrationError, match=r"one\.py follows the revision 'zero', which no file has"):
        migrations.history()

    one.write_text('revision = "one"\ndown_revision = "two"\n')
    two = versions.write("two", "one")
    with pytest.raises(MigrationError, match=r"in a circle: one\.py, two\.py"):
        migrations.history()

    two.write_text('revision = "one"\n')
    with pytest.raises(MigrationError, match=r"one\.py and two\.py have the same revision 'one'"):
        migrations.history()


async def test_a_failed_migration_is_rolled_back_and_those_before_it_are_kept(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    path = versions.write(
        "two",
        "one",
        """
        op.create_table("half", sa.Column("id", sa.Integer(), primary_key=True))
        op.execute("INSERT INTO half (id) VALUES (1)")
        op.execute("INSERT INTO no_such_table (id) VALUES (1)")
        """,
    )

    with pytest.raises(MigrationFailedError, match="no_such_table") as caught:
        await migrations.upgrade(empty_engine)

    assert (caught.value.path, caught.value.line) == (path, 9)
    assert "INSERT" not in str(caught.value)
    assert await tables(empty_engine) == {"t_one"}
    assert ids(await migrations.current(empty_engine)) == ["one"]


async def test_a_migration_that_raises_by_itself_is_named_with_its_line(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write("one", None, 'raise ValueError("not today")')

    with pytest.raises(MigrationFailedError, match=r"one\.py, line 7, failed: ValueError: not today"):
        await migrations.upgrade(empty_engine)


async def test_a_database_that_goes_away_is_not_blamed_on_a_file(
    migrations: Migrations, versions: Versions, open_engine: OpenEngine, tmp_path: Path
) -> None:
    versions.write_table("one", None)
    (tmp_path / "text.db").write_text("this is no database, " * 100)

    with pytest.raises(sa.exc.DatabaseError):
        await migrations.upgrade(open_engine(f"sqlite+aiosqlite:///{tmp_path / 'text.db'}"))


async def test_an_error_beside_the_files_is_not_blamed_on_one(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)

    def fail(*arguments: Any) -> None:
        if "CREATE TABLE alembic_version" in arguments[2]:
            raise RuntimeError("the disk is full")

    sa.event.listen(empty_engine.sync_engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        await migrations.upgrade(empty_engine)


# -- SQLite's foreign keys

REBUILD_PARENT = """
with op.batch_alter_table("parents") as batch:
    batch.alter_column("name", existing_type=sa.Text(), nullable=False)
"""


async def families(engine: AsyncEngine) -> None:
    await run(engine, "CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT)")
    await run(
        engine,
        "CREATE TABLE children (id INTEGER PRIMARY KEY, "
        "parent_id INTEGER REFERENCES parents (id) ON DELETE CASCADE)",
    )
    await run(engine, "INSERT INTO parents (id, name) VALUES (1, 'Ada')")
    await run(engine, "INSERT INTO children (id, parent_id) VALUES (1, 1)")


async def test_rebuilding_a_table_keeps_the_rows_that_refer_to_it(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    await families(empty_engine)
    versions.write("one", None, REBUILD_PARENT)

    await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, "SELECT count(*) FROM children") == 1


async def test_a_migration_that_leaves_rows_pointing_nowhere_is_rolled_back(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, backend: str
) -> None:
    await families(empty_engine)
    versions.write("one", None, 'op.execute("UPDATE children SET parent_id = 7")')

    expected = ForeignKeysBrokenError if backend == "sqlite" else MigrationFailedError
    with pytest.raises(expected, match="children"):
        await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, "SELECT parent_id FROM children") == 1
    assert await migrations.current(empty_engine) == ()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("outcome", ["pass", "raise ValueError"])
async def test_sqlite_enforces_foreign_keys_again_afterwards(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, outcome: str
) -> None:
    versions.write("one", None, outcome)

    if outcome == "pass":
        await migrations.upgrade(empty_engine)
    else:
        with pytest.raises(MigrationFailedError):
            await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, "PRAGMA foreign_keys") == 1
    assert await scalar(empty_engine, "PRAGMA busy_timeout") == 5000


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_an_engine_that_lets_the_driver_begin_has_transactional_migrations_too(
    empty_url: str, migrations: Migrations, versions: Versions
) -> None:
    versions.write("one", None, 'op.execute("CREATE TABLE half (id INTEGER)")\nraise ValueError')
    engine = sa.create_engine(empty_url.replace("+aiosqlite", ""))

    with engine.connect() as connection:
        with pytest.raises(MigrationFailedError):
            migrations.upgrade_on(connection)
        assert sa.inspect(connection).get_table_names() == []
    engine.dispose()


# -- transactions


async def test_what_cannot_run_in_a_transaction_runs_on_both(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    versions.write(
        "two",
        "one",
        """
        with op.get_context().autocommit_block():
            op.create_index("ix_id", "t_one", ["id"], postgresql_concurrently=True)
        """,
    )
    versions.write_table("three", "two")

    assert ids(await migrations.upgrade(empty_engine)) == ["one", "two", "three"]
    async with empty_engine.connect() as connection:
        indexes = await connection.run_sync(lambda sync: sa.inspect(sync).get_indexes("t_one"))
    assert [index["name"] for index in indexes] == ["ix_id"]


async def test_a_connection_inside_of_a_transaction_is_refused(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    async with empty_engine.begin() as connection:
        with pytest.raises(UsageError, match="no transaction"):
            await connection.run_sync(migrations.upgrade_on)


async def test_blocking_use_works_where_no_loop_runs(
    empty_url: str, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    engine = sa.create_engine(empty_url.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg"))

    def work() -> list[list[str]]:
        with engine.connect() as connection:
            done = [ids(migrations.upgrade_on(connection)), ids(migrations.current_on(connection))]
            connection.rollback()
            return [*done, ids(migrations.downgrade_on(connection, revision="base"))]

    assert await asyncio.to_thread(work) == [["one"], ["one"], ["one"]]
    engine.dispose()


# -- two at once

TWO_AT_ONCE = """
import asyncio, sys
from pathlib import Path
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine
from backstay.db.migrations import Migrations

async def main() -> None:
    engine = create_async_engine(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    done = await Migrations(MetaData(), Path(sys.argv[2])).upgrade(engine)
    print(*(revision.id for revision in done))
    await engine.dispose()

asyncio.run(main())
"""


async def test_two_processes_upgrade_at_once_and_each_migration_runs_once(
    empty_url: str, empty_engine: AsyncEngine, directory: Path, versions: Versions, migrations: Migrations
) -> None:
    parent = None
    for number in range(10):
        versions.write_table(f"m{number}", parent)
        parent = f"m{number}"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", TWO_AT_ONCE, empty_url, str(directory),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"

    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))

    assert [process.returncode for process in processes] == [0, 0]
    ran = b" ".join(output for output, _ in outputs).split()
    assert sorted(ran) == [f"m{number}".encode() for number in range(10)]
    assert ids(await migrations.current(empty_engine)) == ["m9"]


async def test_two_upgrades_in_one_process_do_not_mix_their_databases(
    empty_engine: AsyncEngine,
    open_engine: OpenEngine,
    versions: Versions,
    migrations: Migrations,
    tmp_path: Path,
) -> None:
    for revision, parent in (("one", None), ("two", "one"), ("three", "two")):
        versions.write_table(revision, parent)
    other = open_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")

    await asyncio.gather(migrations.upgrade(empty_engine), migrations.upgrade(other))

    assert await tables(empty_engine) == await tables(other) == {"t_one", "t_two", "t_three"}


async def hold_lock(engine: AsyncEngine, kind: str, held: asyncio.Event, release: asyncio.Event) -> None:
    """Do what another migrating process does, for as long as told."""
    async with engine.connect() as connection:
        await connection.execution_options(sqlite_begin="IMMEDIATE")
        statement = f"SELECT pg_advisory_lock({0x6261636B73746179})" if kind == "postgresql" else "SELECT 1"
        await connection.exec_driver_sql(statement)
        held.set()
        await release.wait()
        if kind == "postgresql":
            await connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")


async def test_another_process_that_does_not_end_is_not_waited_for_forever(
    empty_engine: AsyncEngine, directory: Path, versions: Versions, backend: str
) -> None:
    versions.write_table("one", None)
    impatient = Migrations(Base.metadata, directory, lock_wait=timedelta(milliseconds=200))
    held, release = asyncio.Event(), asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(hold_lock(empty_engine, backend, held, release))
        await held.wait()
        with pytest.raises(MigrationsLockedError, match=r"for 0\.2 seconds"):
            await impatient.upgrade(empty_engine)
        release.set()

    assert ids(await impatient.upgrade(empty_engine)) == ["one"]


async def test_the_lock_is_given_back_when_a_migration_fails(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, backend: str
) -> None:
    path = versions.write("one", None, "raise ValueError")
    with pytest.raises(MigrationFailedError):
        await migrations.upgrade(empty_engine)
    path.unlink()
    versions.write_table("one", None)
    other = Migrations(Base.metadata, path.parent.parent, lock_wait=timedelta(milliseconds=100))

    assert ids(await other.upgrade(empty_engine)) == ["one"]
    if backend == "postgresql":
        held = await scalar(empty_engine, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert held == 0


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_killed_connection_releases_the_lock_and_says_so(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write("one", None, 'op.execute("SELECT pg_terminate_backend(pg_backend_pid())")')

    with pytest.raises(MigrationFailedError):
        await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_lock_that_cannot_be_given_back_ends_with_its_connection(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)

    def fail(*arguments: Any) -> None:
        if "pg_advisory_unlock" in arguments[2]:
            raise RuntimeError("not now")

    sa.event.listen(empty_engine.sync_engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="not now"):
        await migrations.upgrade(empty_engine)

    assert await scalar(empty_engine, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


class FailingCursor(sqlite3.Cursor):
    """A disk that fails when the busy timeout is put back."""

    def execute(self, sql: str, *arguments: Any) -> FailingCursor:
        if sql == "PRAGMA busy_timeout = 5000":
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *arguments)


class FailingConnection(sqlite3.Connection):
    def cursor(self, *_: Any) -> Any:
        return super().cursor(FailingCursor)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_connection_whose_pragmas_cannot_be_restored_is_not_used_again(
    empty_url: str, migrations: Migrations, versions: Versions
) -> None:
    versions.write_table("one", None)
    address = empty_url.replace("+aiosqlite", "")
    engine = sa.create_engine(address, pool_size=1, connect_args={"factory": FailingConnection})

    with engine.connect() as connection:
        used = connection.connection.driver_connection
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            migrations.upgrade_on(connection)

    with engine.connect() as connection:
        assert connection.connection.driver_connection is not used
    engine.dispose()


async def test_a_cancelled_upgrade_leaves_no_lock_and_no_half_a_migration(
    empty_engine: AsyncEngine, migrations: Migrations, versions: Versions, directory: Path, backend: str
) -> None:
    pause = (
        "SELECT pg_sleep(60)"
        if backend == "postgresql"
        else (
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) "
            "SELECT max(i) FROM n"
        )
    )
    versions.write("one", None, f'op.execute("CREATE TABLE half (id INTEGER)")\nop.execute("{pause}")')
    reached = asyncio.Event()
    sa.event.listen(
        empty_engine.sync_engine,
        "before_cursor_execute",
        lambda *arguments: reached.set() if arguments[2] == pause else None,
    )
    task = asyncio.create_task(migrations.upgrade(empty_engine))
    await reached.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await tables(empty_engine) == set()
    (versions.folder / "one.py").unlink()
    versions.write_table("one", None)
    again = Migrations(Base.metadata, directory, lock_wait=timedelta(seconds=5))
    assert ids(await again.upgrade(empty_engine)) == ["one"]
    if backend == "sqlite":
        assert await scalar(empty_engine, "PRAGMA foreign_keys") == 1


async def test_a_blocking_upgrade_waits_for_one_in_another_thread(
    empty_url: str, directory: Path, versions: Versions, backend: str
) -> None:
    versions.write("one", None, "import threading\nthreading.inside.set()\nthreading.go.wait(10)")
    inside, go = threading.Event(), threading.Event()
    threading.inside, threading.go = inside, go  # type: ignore[attr-defined]
    engine = sa.create_engine(empty_url.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg"))

    def upgrade(wait: timedelta) -> tuple[Revision, ...]:
        with engine.connect() as connection:
            return Migrations(Base.metadata, directory, lock_wait=wait).upgrade_on(connection)

    first = asyncio.create_task(asyncio.to_thread(upgrade, timedelta(seconds=10)))
    await asyncio.to_thread(inside.wait, 10)
    with pytest.raises(MigrationsLockedError):
        await asyncio.to_thread(upgrade, timedelta(milliseconds=50))
    go.set()

    assert ids(await first) == ["one"]
    engine.dispose()


# -- what it costs, and what it says


async def test_nothing_is_printed_and_what_ran_is_logged(
    empty_engine: AsyncEngine,
    migrations: Migrations,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="backstay.db.migrations")

    path = await migrations.revision(empty_engine, message="Add sails")
    await migrations.upgrade(empty_engine)

    assert capfd.readouterr() == ("", "")
    assert f"Ran migration {path.stem.rpartition('_')[2]}" in caplog.messages


def test_asking_what_is_pending_does_not_import_alembic(
    directory: Path, versions: Versions, tmp_path: Path
) -> None:
    versions.write_table("one", None)
    script = f"""
        import asyncio, sys
        from pathlib import Path
        from sqlalchemy import MetaData
        from sqlalchemy.ext.asyncio import create_async_engine
        from backstay.db.migrations import Migrations, MigrationsPendingError

        async def main() -> None:
            engine = create_async_engine("sqlite+aiosqlite:///{tmp_path / "asked.db"}")
            try:
                await Migrations(MetaData(), Path({str(directory)!r})).require_current(engine)
            except MigrationsPendingError as error:
                print(error)
            await engine.dispose()

        asyncio.run(main())
        assert "alembic" not in sys.modules
    """

    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, check=True)

    assert done.stdout == "The database lacks 1 migration, up to one.py.\n"


def test_every_type_that_a_migration_names_can_be_imported_from_there() -> None:
    import backstay.db.types

    for column_type in (JSON(), Float(), Integer(), Numeric(4, 2), String(7), UTCDateTime(), Uuid()):
        assert repr(eval(f"backstay.db.types.{column_type!r}", {"backstay": backstay})) == repr(column_type)  # noqa: S307

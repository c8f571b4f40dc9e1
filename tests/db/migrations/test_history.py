from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from backstay.db.migrations import (
    BrokenMigrationError,
    MigrationError,
    Migrations,
    MigrationsPendingError,
    MultipleHeadsError,
    UnknownRevisionError,
)
from backstay.errors import ConfigurationError

from .conftest import Versions, ids, tables


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
        assert caught.value.hint is not None
        assert caught.value.hint.startswith("Join them: backstay db merge. ")
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

    with pytest.raises(MigrationError, match="fewer than 3 migrations"):
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

"""Branches: written, labelled, depended on, run one by one and joined; on both databases."""

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from backstay.db.migrations import MigrationError, Migrations, MultipleHeadsError, UnknownRevisionError

from .conftest import Versions, ids, tables

pytestmark = pytest.mark.databases("sqlite", "postgresql")


def id_of(path: Path) -> str:
    return path.stem.rpartition("_")[2]


def find(migrations: Migrations, revision: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """What its file says: parents, dependencies, labels."""
    found = next(one for one in migrations.history() if one.id == revision)
    return found.parents, found.depends_on, found.branch_labels


@pytest.fixture
def two_branches(versions: Versions) -> Versions:
    """One root, and after it two branches with labels, of two migrations each."""
    versions.write_table("root", None)
    for label in ("sails", "masts"):
        first = versions.write_table(f"{label}1", "root")
        first.write_text(f"{first.read_text()}branch_labels = ({label!r},)\n")
        versions.write_table(f"{label}2", f"{label}1")
    return versions


class TestRunning:
    async def test_each_branch_goes_up_and_down_by_its_label(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions
    ) -> None:
        assert ids(await migrations.upgrade(engine, revision="sails@head")) == ["root", "sails1", "sails2"]
        assert ids(await migrations.upgrade(engine, revision="masts@+1")) == ["masts1"]
        assert ids(await migrations.current(engine)) == ["masts1", "sails2"]
        assert ids(await migrations.pending(engine)) == ["masts2"]
        assert ids(await migrations.downgrade(engine, revision="sails@-1")) == ["sails2"]
        assert set(ids(await migrations.upgrade(engine, revision="heads"))) == {"masts2", "sails2"}
        assert ids(await migrations.current(engine)) == ["masts2", "sails2"]

        await migrations.downgrade(engine, revision="base")
        assert await tables(engine) == set()

    async def test_a_branch_with_a_root_of_its_own_goes_down_alone(
        self, engine: AsyncEngine, migrations: Migrations, versions: Versions
    ) -> None:
        versions.write_table("one", None)
        other = versions.write_table("other", None)
        other.write_text(f"{other.read_text()}branch_labels = ('others',)\n")
        await migrations.upgrade(engine, revision="heads")

        assert ids(await migrations.downgrade(engine, revision="others@base")) == ["other"]
        assert await tables(engine) == {"t_one"}

    async def test_a_step_that_could_go_either_way_is_refused(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions
    ) -> None:
        await migrations.upgrade(engine, revision="heads")

        with pytest.raises(MigrationError, match="not clear which of masts2, sails2 to take back") as unclear:
            await migrations.downgrade(engine, revision="-1")
        assert unclear.value.hint is not None
        assert "label@-1" in unclear.value.hint
        with pytest.raises(MultipleHeadsError, match=r"masts2\.py, sails2\.py") as caught:
            await migrations.upgrade(engine)
        assert caught.value.hint is not None
        assert caught.value.hint.startswith(
            "Join them: backstay db merge. To keep the branches apart, say which"
        )

    async def test_an_unknown_label_is_told_with_the_nearest(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions
    ) -> None:
        with pytest.raises(UnknownRevisionError, match="'sail'") as caught:
            await migrations.upgrade(engine, revision="sail@head")
        assert "Did you mean 'sails'?" in str(caught.value)

    async def test_what_depends_on_a_label_runs_after_what_bears_it(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions
    ) -> None:
        path = two_branches.folder / "masts2.py"
        path.write_text(f"{path.read_text()}depends_on = 'sails'\n")

        assert find(migrations, "masts2")[1] == ("sails1",)
        assert ids(await migrations.upgrade(engine, revision="masts@head"))[-1] == "masts2"
        assert ids(await migrations.pending(engine)) == ["sails2"]
        assert await tables(engine) == {"t_root", "t_masts1", "t_masts2", "t_sails1"}


class TestWriting:
    async def test_a_head_must_be_named_where_there_are_two(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions
    ) -> None:
        await migrations.upgrade(engine, revision="heads")
        with pytest.raises(MultipleHeadsError):
            await migrations.revision(engine, message="More", autogenerate=False)

        path = await migrations.revision(engine, message="More", autogenerate=False, head="sails@head")

        assert find(migrations, id_of(path)) == (("sails2",), (), ())

    async def test_a_branch_of_its_own_has_a_label_and_what_it_depends_on(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions
    ) -> None:
        path = await migrations.revision(
            engine,
            message="Begin",
            autogenerate=False,
            head="base",
            branch_label="rigging",
            depends_on=("sails", "masts2"),
        )

        assert find(migrations, id_of(path)) == ((), ("sails1", "masts2"), ("rigging",))
        assert "sails2" not in ids(await migrations.upgrade(engine, revision="rigging@head"))

    async def test_a_migration_that_others_follow_is_followed_with_splice_only(
        self, engine: AsyncEngine, migrations: Migrations, versions: Versions
    ) -> None:
        versions.write_table("one", None)
        versions.write_table("two", "one")

        with pytest.raises(MigrationError, match="is not a head") as caught:
            await migrations.revision(engine, message="Fix", autogenerate=False, head="one")
        assert caught.value.hint == "Add --splice to begin a branch there, or follow a head."
        path = await migrations.revision(engine, message="Fix", autogenerate=False, head="one", splice=True)

        assert find(migrations, id_of(path))[0] == ("one",)
        assert len(migrations.heads()) == 2

    @pytest.mark.parametrize("label", ["sails", "two words", "a@b", "head"])
    async def test_a_label_that_cannot_be_is_refused_and_nothing_is_left(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions, label: str
    ) -> None:
        before = migrations.history()

        with pytest.raises(MigrationError, match=label) as caught:
            await migrations.revision(
                engine, message="More", autogenerate=False, head="sails2", branch_label=label
            )

        assert caught.value.hint is not None
        assert migrations.history() == before

    async def test_two_files_that_claim_one_label_are_named(
        self, migrations: Migrations, two_branches: Versions
    ) -> None:
        path = two_branches.folder / "masts2.py"
        path.write_text(f"{path.read_text()}branch_labels = 'sails'\n")

        with pytest.raises(MigrationError, match=r"masts2\.py and sails1\.py both claim the name 'sails'"):
            migrations.history()

    async def test_a_dependency_on_nothing_is_named(
        self, migrations: Migrations, two_branches: Versions
    ) -> None:
        path = two_branches.folder / "masts2.py"
        path.write_text(f"{path.read_text()}depends_on = ('keel',)\n")

        with pytest.raises(MigrationError, match=r"masts2\.py depends on 'keel', which is neither"):
            migrations.history()


class TestMerging:
    async def test_all_heads_are_joined_into_one(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions
    ) -> None:
        path = migrations.merge()

        assert set(find(migrations, id_of(path))[0]) == {"sails2", "masts2"}
        assert path.name.endswith(f"_merge_{id_of(path)}.py")
        await migrations.upgrade(engine)
        assert ids(await migrations.current(engine)) == [id_of(path)]
        assert ids(await migrations.downgrade(engine, revision="-1")) == [id_of(path)]
        assert ids(await migrations.current(engine)) == ["masts2", "sails2"]
        await migrations.downgrade(engine, revision="base")
        assert await tables(engine) == set()

    async def test_what_others_follow_is_joined_with_splice_only(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions
    ) -> None:
        with pytest.raises(MigrationError, match="is not a head"):
            migrations.merge(revisions=["sails1", "masts2"])

        path = migrations.merge(
            message="Join early", revisions=["sails1", "masts@head"], splice=True, branch_label="early"
        )

        assert find(migrations, id_of(path)) == (("sails1", "masts2"), (), ("early",))
        await migrations.upgrade(engine, revision="early@head")
        assert ids(await migrations.current(engine)) == [id_of(path)]
        assert ids(await migrations.pending(engine)) == ["sails2"]
        await migrations.upgrade(engine, revision="heads")
        await migrations.downgrade(engine, revision="base")
        assert await tables(engine) == set()

    @pytest.mark.parametrize("revisions", [(), ("sails2",)])
    async def test_one_migration_is_nothing_to_merge(
        self, migrations: Migrations, versions: Versions, revisions: tuple[str, ...]
    ) -> None:
        versions.write_table("sails2", None)

        with pytest.raises(MigrationError, match="nothing to merge"):
            migrations.merge(revisions=revisions)

    @pytest.mark.parametrize("other", ["mast2s", "sails2"])
    async def test_what_cannot_be_merged_is_refused(
        self, migrations: Migrations, two_branches: Versions, other: str
    ) -> None:
        before = migrations.history()

        with pytest.raises(MigrationError) as caught:
            migrations.merge(revisions=["sails2", other])

        assert caught.value.hint is not None
        assert migrations.history() == before

    async def test_two_heads_are_told_by_the_check(
        self, engine: AsyncEngine, migrations: Migrations, two_branches: Versions
    ) -> None:
        assert (await migrations.check(engine))[:2] == (
            "head masts2.py: one of 2",
            "head sails2.py: one of 2",
        )

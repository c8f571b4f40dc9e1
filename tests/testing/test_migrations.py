"""One fixture runs a project's whole history up, down and up, and compares it with the models."""

from collections.abc import Iterator

import pytest

from backstay.db.model import Model

from .conftest import Project

MODELS = """
from backstay import Model
from backstay.db.types import Integer
from sqlalchemy import CheckConstraint, Column, Table

Table(
    "boats",
    Model.metadata,
    Column("id", Integer, primary_key=True),
    Column("length", Integer, CheckConstraint("length > 0", name="length"), nullable=False),
    keep_existing=True,
)
"""
APP = """
from backstay import Settings, create_app
import models
app = create_app(Settings(name="boats"))
"""
TEST = """
import pytest

@pytest.mark.databases("sqlite", "postgresql")
async def test_the_migrations_hold(migrations_check):
    await migrations_check({arguments})
"""
MIGRATION = """
import sqlalchemy as sa
from alembic import op
from backstay.db.types import Integer

revision = {revision!r}
down_revision = {parent!r}

def upgrade():
    {upgrade}

def downgrade():
    {downgrade}
"""
CREATE = """op.create_table("boats", sa.Column("id", Integer(), primary_key=True),
        sa.Column("length", Integer(), nullable=False){check})"""
CHECK = """, sa.CheckConstraint("length > 0", name="ck_boats_length")"""
DROP = 'op.drop_table("boats")'


def write_migration(
    project: Project, revision: str, parent: str | None, upgrade: str, downgrade: str
) -> None:
    versions = project.pytester.path / "migrations" / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    source = MIGRATION.format(revision=revision, parent=parent, upgrade=upgrade, downgrade=downgrade)
    (versions / f"{revision}.py").write_text(source)


@pytest.fixture
def boats(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project with one table and no migrations."""
    project.write(models=MODELS, main=APP)
    (project.pytester.path / "pyproject.toml").write_text('[tool.backstay]\napp = "main:app"\n')
    monkeypatch.syspath_prepend(project.pytester.path)
    yield project
    Model.metadata.remove(Model.metadata.tables["boats"])


def test_a_history_that_holds_passes_on_both_databases(boats: Project) -> None:
    write_migration(boats, "one", None, CREATE.format(check=CHECK), DROP)

    boats.test(TEST.format(arguments="")).assert_outcomes(passed=2)


def test_a_difference_to_the_models_fails_with_a_line_for_each(boats: Project) -> None:
    write_migration(boats, "one", None, CREATE.format(check=""), DROP)

    result = boats.test(TEST.format(arguments=""))

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "Models, migrations and database differ:",
            "  CHECK ck_boats_length on boats: not in the database as CHECK (length > 0)",
        ]
    )


def test_a_downgrade_that_leaves_something_behind_fails_with_its_place(boats: Project) -> None:
    write_migration(boats, "one", None, CREATE.format(check=CHECK), "pass")

    result = boats.test(TEST.format(arguments=""))

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["The migration *one.py, line 10, failed: *boats*already exists*", "hint: It*"]
    )


def test_a_beginning_that_cannot_be_taken_back_is_left_alone(boats: Project) -> None:
    write_migration(boats, "one", None, CREATE.format(check=CHECK), "raise NotImplementedError")
    write_migration(boats, "two", "one", 'op.create_index("i", "boats", ["length"])', 'op.drop_index("i")')
    write_migration(boats, "three", "two", 'op.drop_index("i")', 'op.create_index("i", "boats", ["length"])')

    boats.test(TEST.format(arguments="")).assert_outcomes(failed=2)
    boats.test(TEST.format(arguments="down_to='one'")).assert_outcomes(passed=2)


MARKED = """
from backstay import Settings, create_app, idempotent, public
import models
app = create_app(Settings(name="boats"))

@app.post("/boats", dependencies=[public, idempotent()])
async def build() -> None: ...
"""


def test_the_librarys_table_belongs_to_what_is_compared(boats: Project) -> None:
    boats.write(main=MARKED)
    write_migration(boats, "one", None, CREATE.format(check=CHECK), DROP)

    result = boats.test(TEST.format(arguments=""))

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["  table backstay_idempotency: not in the database"])


def test_without_migrations_the_librarys_table_is_made_beside_those_of_the_models(boats: Project) -> None:
    boats.write(main=MARKED)
    test = """
    import pytest
    from sqlalchemy import inspect

    @pytest.mark.databases("sqlite", "postgresql")
    async def test_tables(database):
        async with database.engine.connect() as connection:
            names = await connection.run_sync(lambda bound: inspect(bound).get_table_names())
        assert set(names) == {"backstay_idempotency", "boats"}
    """

    boats.test(test).assert_outcomes(passed=2)


def test_a_project_without_migrations_is_told_so(boats: Project) -> None:
    result = boats.test(TEST.format(arguments=""), "--database", "sqlite")

    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["There are no migrations in *migrations to check."])

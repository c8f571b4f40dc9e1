"""What the Python of a migration says."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .conftest import Files, rules


@pytest.fixture
def shop_models(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A service's module with a model, a table and something else."""

    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)

    module = ModuleType("lint_shop_models")
    vars(module).update(Order=Order, links=sa.Table("links", sa.MetaData()), LIMIT=5)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize(
    ("line", "is_model"),
    [
        ("from lint_shop_models import Order", True),
        ("from lint_shop_models import links", True),
        ("import lint_shop_models", True),
        ("from lint_shop_models import LIMIT", False),
        ("from pathlib import Path", False),
        ("from backstay import Model", False),
    ],
)
def test_a_model_of_the_service_is_none_of_the_migration(
    files: Files, shop_models: ModuleType, line: str, is_model: bool
) -> None:
    assert files.lint(line) == ["1: imports-models"] * is_model


@pytest.mark.parametrize(
    ("call", "is_pasted"),
    [
        ("op.execute(f'INSERT INTO t VALUES ({value})')", True),
        ("op.execute(sa.text(f'INSERT INTO t VALUES ({value})'))", True),
        ("op.execute('INSERT INTO t VALUES (%s)' % value)", True),
        ("op.execute('INSERT INTO t VALUES (' + value + ')')", True),
        ("op.execute('INSERT INTO t VALUES ({})'.format(value))", True),
        ("op.execute(f'COMMENT ON TABLE t{value} IS NULL')", False),
        ("op.execute('INSERT INTO t ' + 'VALUES (1)')", False),
        ("op.execute(f'INSERT INTO t VALUES (1)')", False),
        ("op.execute(value.replace('1', 'SELECT 1'))", False),
        ("op.execute(sa.text('INSERT INTO t VALUES (:v)').bindparams(v=value))", False),
    ],
)
def test_a_value_is_bound_not_pasted(files: Files, call: str, is_pasted: bool) -> None:
    assert files.lint(f"value = '1'\n{call}") == ["2: interpolated-sql"] * is_pasted


@pytest.mark.parametrize("downgrade", ["pass", "...", '"""Words."""', "raise NotImplementedError"])
def test_a_migration_that_cannot_be_taken_back_is_named(files: Files, downgrade: str) -> None:
    assert files.lint("op.execute('SELECT 1')", downgrade=downgrade) == ["4: irreversible"]
    assert files.lint("pass", downgrade=downgrade) == []


def test_a_missing_downgrade_is_named(files: Files) -> None:
    path = files.write("one", "op.execute('SELECT 1')")
    path.write_text(path.read_text().partition("def downgrade")[0])

    assert rules(files.migrations.lint()) == ["irreversible"]


# -- allow


@pytest.mark.parametrize(
    "body",
    [
        "op.drop_table('t')  # allow[drop-table]: why",
        "# allow[drop-table]: why\nop.drop_table('t')",
        "# allow[drop-table]: why\n# and more words\n\nop.drop_table('t')",
        "op.drop_table(\n    't',  # allow[drop-table]: why\n)",
        "op.drop_table(\n    # allow[drop-table]: why\n    't',\n)",
        "op.execute('DROP TABLE t; TRUNCATE t')  # allow[drop-table, truncate]: why",
        "# allow[drop-table]: why\n# allow[truncate]: why\nop.execute('DROP TABLE t; TRUNCATE t')",
        "if True:\n    # allow[drop-table]: why\n    op.drop_table('t')",
    ],
)
def test_an_allow_with_a_reason_is_heard(files: Files, body: str) -> None:
    assert files.lint(body) == []


def test_an_allow_above_a_function_is_for_its_line(files: Files) -> None:
    path = files.write("one", "op.execute('SELECT 1')", downgrade="pass")
    path.write_text(path.read_text().replace("def downgrade", "# allow[irreversible]: why\ndef downgrade"))

    assert files.migrations.lint().findings == ()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("op.drop_table('t')  # allow[drop-table]", ["1: allow-without-reason"]),
        ("op.drop_table('t')  # allow[drop-table]:", ["1: allow-without-reason"]),
        ("op.drop_table('t')  # allow[truncate]: why", ["1: drop-table", "1: unused-allow"]),
        ("op.drop_table('t')  # allow[]: why", ["1: drop-table", "1: unused-allow"]),
        ("# allow[drop-table]: why\npass\nop.drop_table('t')", ["1: unused-allow", "3: drop-table"]),
        ("op.drop_table('t')\n# allow[drop-table]: why", ["1: drop-table", "2: unused-allow"]),
        ("op.execute(\"SELECT '# allow[drop-table]: why'\")", []),
    ],
)
def test_an_allow_without_reason_or_use_is_reported(files: Files, body: str, found: list[str]) -> None:
    assert files.lint(body) == found


def test_an_unknown_rule_is_said_to_be_near_another(files: Files) -> None:
    files.write("one", "op.drop_table('t')  # allow[drop-tble]: why")

    assert files.migrations.lint().findings[1].message == (
        "allow[drop-tble] allows nothing here. Did you mean 'drop-table'?"
    )

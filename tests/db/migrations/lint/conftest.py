"""The guide's examples, a folder of migrations to lint, and a PostgreSQL to run them on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from backstay.db.migrations import (
    Migrations,
)
from backstay.db.migrations.lint import LintReport

ROOT = Path(__file__).parents[4]
GUIDE = ROOT / "docs" / "guides" / "migration-lint.md"
SECTIONS = re.split(r"^### `", GUIDE.read_text(), flags=re.MULTILINE)[1:]
EXAMPLES = {
    section.partition("`")[0]: [
        dedent(block) for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    ]
    for section in SECTIONS
}
DANGERS = sorted(EXAMPLES)

SHOP = """
for statement in (
    "CREATE TYPE order_status AS ENUM ('open', 'paid')",
    "CREATE TABLE customers (id bigint PRIMARY KEY, name varchar(80) NOT NULL)",
    "CREATE TABLE orders (reference bigint NOT NULL, customer_id bigint, email varchar(100),"
    " total numeric(10, 2), quantity integer, note text, status order_status, shift int4range)",
    "CREATE INDEX ix_orders_email ON orders (email)",
    "CREATE MATERIALIZED VIEW sales AS SELECT id FROM customers",
    "CREATE UNIQUE INDEX ix_sales_id ON sales (id)",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "INSERT INTO customers SELECT n, 'name' FROM generate_series(1, 5) n",
    "INSERT INTO orders SELECT n, n % 5 + 1, 'mail', n, 1, 'note', 'open', int4range(n, n + 1)"
    " FROM generate_series(1, 100) n",
    # What a migration drops is no longer in pg_class when it is asked for its locks.
    "CREATE TABLE names AS SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    "CREATE TABLE seen_locks (relname text, mode text)",
):
    op.execute(statement)
"""


class Files:
    """Writes the migrations of a directory, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.migrations = Migrations(sa.MetaData(), directory)
        self._last: str | None = None

    def write(self, revision: str, upgrade: str, *, downgrade: str = "op.execute('SELECT 1')") -> Path:
        folder = self.directory / "versions"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{revision}.py"
        path.write_text(
            f'"""Do {revision}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
            f"revision = {revision!r}\ndown_revision = {self._last!r}\n\n\n"
            f"def upgrade():\n{indent(dedent(upgrade).strip(), '    ')}\n\n\n"
            f"def downgrade():\n    {downgrade}\n"
        )
        if revision != "checked":
            self._last = revision
        return path

    def lint(self, upgrade: str, *, downgrade: str = "op.execute('SELECT 1')") -> list[str]:
        """Write a migration, and return the rules that it breaks, with its lines counted from upgrade()'s."""
        path = self.write("checked", upgrade, downgrade=downgrade)
        start = path.read_text().splitlines().index("def upgrade():") + 1
        return [f"{one.line - start}: {one.rule}" for one in self.migrations.lint("checked").findings]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "migrations")


@pytest.fixture
async def postgresql(shared_postgresql_url: str, open_engine: Callable[[str], AsyncEngine]) -> AsyncEngine:
    """An empty PostgreSQL: the module's database with its schema made anew."""
    engine = open_engine(shared_postgresql_url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        await connection.execute(sa.text("CREATE SCHEMA public"))
    return engine


@pytest.fixture
async def shop(files: Files, postgresql: AsyncEngine) -> AsyncEngine:
    """A PostgreSQL with the tables of the guide's examples."""
    files.write("shop", SHOP)
    await files.migrations.upgrade(postgresql)
    return postgresql


def rules(report: LintReport) -> list[str]:
    return [finding.rule for finding in report.findings]

"""The lint against the server: the lock that a finding names is the one that PostgreSQL reports."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent
from types import ModuleType

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backstay.db.migrations import (
    MigrationError,
    MigrationFailedError,
    Migrations,
    UnknownTargetError,
)
from backstay.db.migrations.lint import RULES, LintReport, Lock
from backstay.db.migrations.lint._operations import read_operations
from backstay.db.migrations.lint._statements import split_statements

ROOT = Path(__file__).parents[3]
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
SHOP_ON_SQLITE = """
for statement in (
    "CREATE TABLE customers (id bigint PRIMARY KEY, name varchar(80) NOT NULL)",
    "CREATE TABLE orders (reference bigint NOT NULL, customer_id bigint, email varchar(100),"
    " total numeric(10, 2), quantity integer, note text)",
    "CREATE INDEX ix_orders_email ON orders (email)",
    "INSERT INTO customers VALUES (1, 'name')",
    "INSERT INTO orders VALUES (1, 1, 'mail', 1, 1, 'note')",
):
    op.execute(statement)
"""
SEE_LOCKS = """
op.execute(
    "INSERT INTO seen_locks SELECT relname, mode FROM pg_locks JOIN names ON oid = relation"
    " WHERE pid = pg_backend_pid() AND granted"
)
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


# -- each rule of the guide, on the server


@pytest.mark.parametrize("rule", [one for one in DANGERS if RULES[one].lock])
async def test_the_lock_of_a_finding_is_the_one_that_the_server_reports(
    rule: str, files: Files, shop: AsyncEngine
) -> None:
    danger = EXAMPLES[rule][0]
    # With rows it would not come so far.
    before = 'op.execute("DELETE FROM orders")\n' if rule == "not-null-without-default" else ""
    files.write("danger", danger)
    finding = next(one for one in files.migrations.lint("danger").findings if one.rule == rule)

    (files.directory / "versions" / "danger.py").unlink()
    files._last = "shop"
    files.write("watched", before + danger + SEE_LOCKS)
    await files.migrations.upgrade(shop)

    assert finding.tables
    for table in finding.tables:
        assert (table, await strongest_lock(shop, table)) == (table, finding.lock)


async def strongest_lock(engine: AsyncEngine, table: str) -> Lock | None:
    async with engine.connect() as connection:
        seen = await connection.scalars(
            sa.text("SELECT mode FROM seen_locks WHERE relname = :table"), {"table": table}
        )
        names = {re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper() for mode in seen}
    return max((lock for lock in Lock if lock in names), key=list(Lock).index, default=None)


@pytest.mark.parametrize("rule", DANGERS)
async def test_the_safe_way_of_the_guide_is_clean_and_runs(
    rule: str, files: Files, shop: AsyncEngine
) -> None:
    for number, safe in enumerate(EXAMPLES[rule][1:]):
        files.write(f"safe{number}", safe)

    report = files.migrations.lint(since="shop")
    ran = await files.migrations.upgrade(shop)

    assert report.findings == ()
    assert report.linted == ran
    assert len(ran) == len(EXAMPLES[rule]) - 1 > 0


# Their safe ways are about things that SQLite has not.
OF_POSTGRESQL = {
    "enum-value-in-transaction",
    "exclusion-constraint",
    "refresh-materialized-view",
    "reindex",
    "table-rewrite",
    "trigger",
    "truncate",
}


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("rule", sorted(set(DANGERS) - OF_POSTGRESQL))
async def test_the_safe_way_of_the_guide_runs_on_sqlite_too(
    rule: str, files: Files, empty_engine: AsyncEngine
) -> None:
    files.write("shop", SHOP_ON_SQLITE)
    for number, safe in enumerate(EXAMPLES[rule][1:]):
        files.write(f"safe{number}", safe)

    await files.migrations.upgrade(empty_engine)


@pytest.mark.parametrize(
    ("rule", "afterwards", "words"),
    [
        ("concurrent-in-transaction", "", "cannot run inside a transaction block"),
        ("not-null-without-default", "", "contains null values"),
        ("enum-value-in-transaction", "op.execute(\"UPDATE orders SET status = 'returned'\")", "unsafe use"),
    ],
)
async def test_what_is_said_to_fail_fails(
    rule: str, afterwards: str, words: str, files: Files, shop: AsyncEngine
) -> None:
    files.write("danger", EXAMPLES[rule][0] + afterwards)

    assert rule in rules(files.migrations.lint("danger"))
    with pytest.raises(MigrationFailedError, match=words):
        await files.migrations.upgrade(shop)


@pytest.mark.parametrize("rule", DANGERS)
def test_the_danger_of_the_guide_is_named_alone(rule: str, files: Files) -> None:
    files.write("danger", EXAMPLES[rule][0])

    assert rules(files.migrations.lint()) == [rule]


def test_the_table_of_the_guide_says_what_the_rules_say() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", GUIDE.read_text(), re.MULTILINE)

    assert rows == [(name, row(name)) for name in RULES]


def row(name: str) -> str:
    rule = RULES[name]
    lock = rule.lock or "none"
    blocks = rule.lock.blocks if rule.lock else "none"
    return f" {lock} | {blocks} | {rule.advise(what='...').replace('|', '/')} "


def test_every_rule_that_reads_sql_has_an_example() -> None:
    of_python = {"imports-models", "irreversible", "allow-without-reason", "unused-allow"}

    assert set(EXAMPLES) == set(RULES) - of_python


@pytest.mark.parametrize("lock", list(Lock))
async def test_what_a_lock_blocks(lock: Lock, shop: AsyncEngine) -> None:
    async with shop.connect() as holder, shop.connect() as other:
        await holder.execute(sa.text(f"LOCK TABLE orders IN {lock} MODE"))
        reads = await is_blocked(other, "SELECT * FROM orders")
        writes = await is_blocked(other, "UPDATE orders SET note = ''")

    blocked = " and ".join(["reads"] * reads + ["writes"] * writes)
    unblocked = {Lock.ROW_EXCLUSIVE: "writes to the same rows", Lock.SHARE_UPDATE_EXCLUSIVE: "nothing"}
    assert lock.blocks == (blocked or unblocked[lock])


async def is_blocked(connection: AsyncConnection, statement: str) -> bool:
    await connection.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
    try:
        await connection.execute(sa.text(statement))
    except DBAPIError as error:
        return "lock timeout" in str(error)
    finally:
        await connection.rollback()
    return False


# -- what the server rewrites

TYPES = [
    ("varchar(10)", "sa.String(10)", "sa.String(20)", False),
    ("varchar(10)", "sa.String(10)", "sa.String()", False),
    ("varchar(10)", "sa.String(10)", "sa.Text()", False),
    ("text", "sa.Text()", "sa.String()", False),
    ("numeric(10, 2)", "sa.Numeric(10, 2)", "sa.Numeric(12, 2)", False),
    ("numeric(10, 2)", "sa.Numeric(10, 2)", "sa.Numeric()", False),
    ("numeric(10, 2)", "sa.Numeric(10, 2)", "sa.Numeric(12, 4)", True),
    ("numeric(10, 2)", "sa.Numeric(10, 2)", "sa.Numeric(8, 2)", True),
    ("numeric", "sa.Numeric()", "sa.Numeric(10, 2)", True),
    ("varchar(20)", "sa.String(20)", "sa.String(10)", True),
    ("varchar", "sa.String()", "sa.String(10)", True),
    ("integer", "sa.Integer()", "sa.BigInteger()", True),
    ("integer", "sa.Integer()", "sa.Text()", True),
]
DEFAULTS = [
    ("sa.Integer(), server_default='7'", False),
    ('sa.String(40), server_default="it\'s (not) a function; no"', False),
    ("sa.DateTime(timezone=True), server_default=sa.func.now()", False),
    ("sa.DateTime(timezone=True), server_default=sa.text('CURRENT_TIMESTAMP')", False),
    ("sa.DateTime(), server_default=sa.text(\"timezone('utc', now())\")", False),
    ("sa.Numeric(10, 2), server_default=sa.text('0.00::numeric(10, 2)')", False),
    ("sa.JSON(), server_default=sa.text(\"'{}'::json\")", False),
    ("sa.Uuid(), server_default=sa.func.gen_random_uuid()", True),
    ("sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp()", True),
    ("sa.Float(), server_default=sa.text('random()')", True),
    ("sa.BigInteger(), server_default=sa.text(\"nextval('numbers')\")", True),
    ("sa.Integer(), sa.Computed('1 + 1', persisted=True)", True),
    ("sa.BigInteger(), sa.Identity()", True),
]


async def test_the_types_that_are_named_are_those_that_the_server_writes_anew(
    files: Files, postgresql: AsyncEngine
) -> None:
    tables = [f"CREATE TABLE t{number} (c {spelled})" for number, (spelled, *_) in enumerate(TYPES)]
    changes = [
        f"op.alter_column('t{number}', 'c', existing_type={before}, type_={after})"
        for number, (_, before, after, _) in enumerate(TYPES)
    ]

    named, rewritten = await named_and_rewritten(files, postgresql, tables, changes, "column-type")

    assert named == rewritten == [is_named for *_, is_named in TYPES]


async def test_the_defaults_that_are_named_are_those_that_the_server_writes_into_each_row(
    files: Files, postgresql: AsyncEngine
) -> None:
    tables = [f"CREATE TABLE t{number} (a integer)" for number in range(len(DEFAULTS))]
    changes = [
        f"op.add_column('t{number}', sa.Column('c', {column}, nullable=False))"
        for number, (column, _) in enumerate(DEFAULTS)
    ]

    named, rewritten = await named_and_rewritten(
        files, postgresql, ["CREATE SEQUENCE numbers", *tables], changes, "volatile-default"
    )

    assert named == rewritten == [is_named for _, is_named in DEFAULTS]


async def named_and_rewritten(
    files: Files, engine: AsyncEngine, tables: list[str], changes: list[str], rule: str
) -> tuple[list[bool], list[bool]]:
    """Change each table, and return which the lint names and which the server made a new file for."""
    files.write("tables", "\n".join(f"op.execute({table!r})" for table in tables))
    await files.migrations.upgrade(engine)
    before = await storage(engine, len(changes))
    path = files.write("changes", "\n".join(changes))
    await files.migrations.upgrade(engine)
    after = await storage(engine, len(changes))
    start = path.read_text().splitlines().index("def upgrade():") + 2
    report = files.migrations.lint("changes")
    lines = {finding.line - start for finding in report.findings if finding.rule == rule}
    return (
        [number in lines for number in range(len(changes))],
        [one != other for one, other in zip(before, after, strict=True)],
    )


async def storage(engine: AsyncEngine, number_of_tables: int) -> list[int]:
    async with engine.connect() as connection:
        return [
            (await connection.execute(sa.text(f"SELECT pg_relation_filenode('t{number}')"))).scalar_one()
            for number in range(number_of_tables)
        ]


# What is harmless alone, and whether a second table makes it a danger of deadlocks.
HARMLESS = [
    "ALTER TABLE orders ADD COLUMN a int",
    "ALTER TABLE orders ADD COLUMN a int NOT NULL DEFAULT 1",
    "ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0) NOT VALID",
    "ALTER TABLE orders ADD CONSTRAINT c FOREIGN KEY (customer_id) REFERENCES customers (id) NOT VALID",
    "ALTER TABLE orders VALIDATE CONSTRAINT positive",
    "ALTER TABLE orders DROP CONSTRAINT positive",
    "ALTER TABLE orders RENAME CONSTRAINT positive TO above",
    "ALTER TABLE orders ALTER COLUMN note SET DEFAULT ''",
    "ALTER TABLE orders ALTER COLUMN note DROP NOT NULL",
    "ALTER TABLE orders ALTER COLUMN note SET STATISTICS 100",
    "ALTER TABLE orders SET (fillfactor = 70)",
    "ALTER TABLE orders VALIDATE CONSTRAINT positive, ADD COLUMN a int",
    "DROP TRIGGER touched ON orders",
    "INSERT INTO orders (reference) SELECT 1",
    "SELECT * FROM orders FOR UPDATE",
    "COMMENT ON TABLE orders IS 'words'",
    "LOCK TABLE orders IN SHARE MODE",
    "LOCK orders IN ACCESS EXCLUSIVE MODE",
    "SELECT 1",
]


async def test_the_strongest_lock_is_known_of_what_is_harmless_alone(files: Files, shop: AsyncEngine) -> None:
    seen: dict[str, bool] = {}
    async with shop.connect() as connection:
        for statement in (
            "ALTER TABLE orders ADD CONSTRAINT positive CHECK (total > 0) NOT VALID",
            "CREATE TRIGGER touched BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch()",
        ):
            await connection.execute(sa.text(statement))
        await connection.commit()
        for statement in HARMLESS:
            await connection.execute(sa.text(statement))
            seen[statement] = await connection.scalar(sa.text(IS_LOCKED)) or False
            await connection.rollback()

    said = {
        statement: "2: several-tables-locked"
        in files.lint(f"op.execute({statement!r})\nop.execute('ALTER TABLE customers ADD COLUMN b int')")
        for statement in HARMLESS
    }
    assert said == seen
    assert set(said.values()) == {True, False}


IS_LOCKED = """
SELECT bool_or(mode = 'AccessExclusiveLock') FROM pg_locks
WHERE pid = pg_backend_pid() AND relation = 'orders'::regclass
"""


# -- what is seen, and what is known of it


def test_the_first_migration_of_a_service_is_clean(files: Files, tmp_path: Path) -> None:
    written = ROOT / "src" / "backstay" / "templates" / "service" / "migrations"

    report = Migrations(sa.MetaData(), written).lint()

    assert (len(report.linted), report.findings) == (1, ())


def test_a_table_of_the_same_migration_is_seen_by_nobody(files: Files) -> None:
    assert (
        files.lint(
            """
            op.create_table("new", sa.Column("id", sa.Integer()), sa.Column("a", sa.Text()))
            op.create_index("ix_new_a", "new", ["a"])
            op.create_primary_key("pk_new", "new", ["id"])
            op.alter_column("new", "a", nullable=False)
            op.execute("INSERT INTO new SELECT n, 'a' FROM generate_series(1, 9) n")
            op.execute("UPDATE public.new SET a = 'b'")
            op.drop_index("ix_new_a")
            op.execute("CREATE TABLE copy AS SELECT * FROM new")
            op.execute("ALTER TABLE IF EXISTS ONLY \\"copy\\" ADD UNIQUE (id)")
            op.rename_table("copy", "archive")
            op.execute("CREATE UNIQUE INDEX ON archive (id)")
            op.drop_table("archive")
            """
        )
        == []
    )


def test_each_operation_of_a_batch_is_reported_at_its_own_line(files: Files) -> None:
    assert files.lint(
        """
        with op.batch_alter_table("orders", schema=None) as batch_op:
            batch_op.add_column(sa.Column("weight", sa.Integer()))
            batch_op.create_index(
                batch_op.f("ix_orders_weight"),
                ["weight"],
            )
            batch_op.drop_column("note")
        """
    ) == ["3: index-not-concurrent", "7: drop-column"]


def test_an_operation_of_a_function_of_the_file_is_reported_where_it_is_called(files: Files) -> None:
    assert files.lint(
        """
        def index(table):
            op.create_index(f"ix_{table}_a", table, ["a"])

        for table in ("orders", "customers"):
            index(table)
        """
    ) == ["2: index-not-concurrent", "2: index-not-concurrent"]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            "/* a; b */ create unique index if not exists i on only Orders (a) -- concurrently",
            "index-not-concurrent",
        ),
        ("SELECT 'DROP TABLE orders; DROP TABLE x', $$; DROP TABLE orders;$$, $a$ $$; $a$, E'\\';'", None),
        ("SELECT 1; ; DROP TABLE orders CASCADE;", "drop-table"),
        ("ALTER TABLE orders ADD weight int DEFAULT 1, DROP note", "drop-column"),
        ("ALTER TABLE orders ADD CONSTRAINT c CHECK (a IN (1, 2)), ADD b int", "check-constraint"),
        ("ALTER TABLE orders ADD COLUMN a int CHECK (a > 0)", "check-constraint"),
        ("ALTER TABLE orders ADD COLUMN a int UNIQUE", "unique-constraint"),
        ("ALTER TABLE orders ADD COLUMN a int DEFAULT 1 PRIMARY KEY", "primary-key"),
        ("ALTER TABLE orders ADD COLUMN a bigint REFERENCES customers (id)", None),
        ("ALTER TABLE orders ADD COLUMN a bigint DEFAULT 1 REFERENCES customers (id)", "foreign-key"),
        ("ALTER TABLE orders ADD COLUMN a bigserial", "volatile-default"),
        ("ALTER TABLE orders ADD COLUMN a int DEFAULT NULL", None),
        ("ALTER TABLE orders ALTER a SET DATA TYPE bigint", "column-type"),
        ("ALTER TABLE orders ALTER COLUMN a SET STATISTICS 100", None),
        ("ALTER TABLE orders RENAME CONSTRAINT a TO b", "renaming-object"),
        ("ALTER TABLE orders RENAME a TO b", "rename-column"),
        ("ALTER TABLE orders SET SCHEMA archive", "rename-table"),
        ("ALTER TABLE orders SET UNLOGGED", "table-rewrite"),
        ("ALTER TABLE orders SET (fillfactor = 70)", None),
        ("CREATE OR REPLACE TRIGGER t BEFORE INSERT ON orders EXECUTE FUNCTION f()", "trigger"),
        ("DROP TRIGGER t ON orders", None),
        ("DROP INDEX CONCURRENTLY ix_a", "concurrent-in-transaction"),
        ("REINDEX INDEX CONCURRENTLY ix_a", "concurrent-in-transaction"),
        ("REINDEX INDEX ix_a", "reindex"),
        ("VACUUM orders", "concurrent-in-transaction"),
        ("CLUSTER VERBOSE orders", "table-rewrite"),
        ("TRUNCATE TABLE orders", "truncate"),
        ("WITH old AS (SELECT 1) DELETE FROM orders", "data-change"),
        ("MERGE INTO orders USING n ON a = b WHEN MATCHED THEN DELETE", "data-change"),
        ("INSERT INTO orders SELECT * FROM imported", None),
        ("CREATE TEMPORARY TABLE t (a int)", None),
        ("CREATE VIEW v AS SELECT 1", None),
    ],
)
def test_raw_sql_is_read_as_it_is_written(files: Files, statement: str, found: str | None) -> None:
    assert files.lint(f"op.execute({statement!r})") == ([f"1: {found}"] if found else [])


VOCABULARY = """
CREATE ALTER DROP TABLE INDEX UNIQUE CONCURRENTLY TRIGGER ON ONLY IF NOT EXISTS COLUMN ADD CONSTRAINT CHECK
FOREIGN KEY REFERENCES PRIMARY EXCLUDE USING DEFAULT NULL TYPE SET VALIDATE RENAME TO REINDEX VACUUM FULL
CLUSTER TRUNCATE WITH UPDATE DELETE FROM INSERT INTO SELECT REFRESH MATERIALIZED VIEW LOCK IN MODE
a b.c "d" ' $$ ( ) , ; . :: /* */ -- 1
"""
words_of_sql = st.sampled_from(VOCABULARY.split())
starts_of_sql = st.sampled_from(
    ["CREATE INDEX", "ALTER TABLE a ADD", "ALTER TABLE a", "CREATE TRIGGER a", "DROP"]
)


@given(
    st.builds(
        lambda start, rest: [start, *rest], words_of_sql | starts_of_sql, st.lists(words_of_sql, max_size=8)
    )
)
def test_no_statement_is_too_broken_to_be_read(some: list[str]) -> None:
    for statement in split_statements(" ".join(some)):
        assert all(len(operation.tables) <= 2 for operation in read_operations(statement))


@given(st.text())
def test_no_text_is_too_broken_to_be_split(text: str) -> None:
    assert all(statement in text for statement in split_statements(text))


def test_a_scan_while_another_table_is_locked_is_named(files: Files) -> None:
    files.write(
        "checked",
        """
        op.add_column("customers", sa.Column("a", sa.Integer()))
        op.execute("ALTER TABLE orders VALIDATE CONSTRAINT total_positive")
        """,
    )

    (finding,) = files.migrations.lint().findings

    assert (finding.line - 10, finding.rule) == (2, "validate-in-same-transaction")
    assert (
        "all rows of orders while this transaction still holds ACCESS EXCLUSIVE on customers"
        in finding.message
    )


def test_types_and_tables_that_the_connection_creates_are_seen(files: Files) -> None:
    assert (
        files.lint(
            """
            sa.Enum("a", name="letters").create(op.get_bind(), checkfirst=True)
            new = sa.Table("new", sa.MetaData(), sa.Column("id", sa.Integer(), index=True))
            new.create(op.get_bind())
            op.execute("ALTER TYPE letters ADD VALUE 'b'")
            op.drop_table("new")
            """
        )
        == []
    )


def test_a_transaction_that_is_ended_by_hand_holds_nothing_any_more(files: Files) -> None:
    assert files.lint(
        """
        op.execute("ALTER TABLE orders ADD COLUMN a int")
        op.execute("COMMIT")
        op.execute("CREATE INDEX CONCURRENTLY ix ON orders (a)")
        op.execute("BEGIN")
        op.execute("ALTER TABLE customers ADD COLUMN a int")
        op.execute("CREATE INDEX CONCURRENTLY ix2 ON orders (a)")
        """
    ) == ["6: concurrent-in-transaction"]


def test_a_check_that_an_earlier_migration_has_validated_is_known(files: Files) -> None:
    files.write("one", EXAMPLES["validate-in-same-transaction"][0].replace("total >= 0", "total IS NOT NULL"))
    validated = files.lint('op.alter_column("orders", "total", nullable=False)')
    files.write("two", 'op.drop_constraint("total_positive", "orders")')
    dropped = files.lint('op.alter_column("orders", "total", nullable=False)')

    assert (validated, dropped) == ([], ["1: set-not-null"])


def test_the_table_of_an_index_is_remembered(files: Files) -> None:
    files.write("one", 'op.execute("CREATE TABLE orders (a int)")\nop.create_index("ix_a", "orders", ["a"])')
    files.write("two", 'op.drop_index("ix_a")')

    (finding,) = files.migrations.lint("two").findings

    assert finding.tables == ("orders",)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("pass\nop.get_bind().execute(sa.text('SELECT 1')).scalar()\nop.drop_table('never')", 2),
        ("for row in op.get_bind().execute(sa.text('SELECT 1')):\n    pass", 1),
        ("if sa.inspect(op.get_bind()).has_table('t'):\n    pass", 1),
        ("raise ValueError('no.')", 1),
        ("with op.batch_alter_table('orders', recreate='always') as b:\n    pass", 1),
    ],
)
def test_what_needs_a_database_is_said_to_be_unseen(files: Files, body: str, line: int) -> None:
    assert files.lint(body) == [f"{line}: cannot-be-rendered"]


def test_a_file_that_cannot_be_imported_is_said_to_be_unseen(files: Files) -> None:
    path = files.write("one", "pass")
    path.write_text(path.read_text() + "\nimport no_such_module\n")

    (finding,) = files.migrations.lint().findings

    assert (finding.rule, finding.line) == ("cannot-be-rendered", 17)
    assert "No module named 'no_such_module'" in finding.message


def test_statements_on_the_connection_are_seen_too(files: Files) -> None:
    assert files.lint(
        """
        connection = op.get_bind()
        connection.execute(sa.text("DELETE FROM orders WHERE id = :id"), {"id": 1})
        op.bulk_insert(sa.table("colours", sa.column("name")), [])
        op.bulk_insert(sa.table("colours", sa.column("name")), [{"name": object()}])
        op.execute(sa.update(sa.table("orders", sa.column("a"))).values(a=b"bytes"))
        """
    ) == ["2: data-change", "5: data-change"]


# -- Python


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


# -- squawk


def test_squawk_speaks_where_our_rules_have_nothing_to_say(files: Files) -> None:
    assert files.lint(
        """
        op.execute("SELECT\\n1")

        op.execute("DROP VIEW sales")
        op.execute("DROP VIEW totals")  # allow[ban-drop-view]: nobody has read it since 1.4
        """
    ) == ["3: ban-drop-view"]


def test_a_mistake_of_syntax_is_told_once(files: Files) -> None:
    assert files.lint("pass\nop.execute('SELEC 1 FROM FROM t;')") == ["2: syntax-error"]


def test_each_finding_is_one_cause(files: Files) -> None:
    """squawk knows many of these too."""
    assert files.lint("op.create_index('i', 'orders', ['a'])") == ["1: index-not-concurrent"]


def test_without_squawk_our_rules_run_alone(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backstay.db.migrations.lint._lint.find_squawk", lambda: None)
    body = "op.drop_table('t')\nop.execute('DROP VIEW v')  # allow[ban-drop-view]: why"

    assert files.lint(body) == ["1: drop-table"]
    assert not files.migrations.lint().used_squawk


def test_a_squawk_that_does_not_work_is_told(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "squawk"
    program.write_text("#!/bin/sh\necho too old >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("backstay.db.migrations.lint._lint.find_squawk", lambda: program)
    files.write("one", "op.execute('SELECT 1')")

    with pytest.raises(MigrationError, match="squawk does not work: too old"):
        files.migrations.lint()


# -- which migrations


def test_which_migrations_are_reported_on(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [files.write(one, f"op.drop_table('{one}')") for one in ("aa1", "aa2", "bb3")]
    monkeypatch.chdir(paths[0].parent)

    def linted(*targets: str | Path, since: str | None = None) -> list[str]:
        report = files.migrations.lint(*targets, since=since)
        assert [finding.path.stem for finding in report.findings] == [one.id for one in report.linted]
        return [one.id for one in report.linted]

    assert linted() == ["aa1", "aa2", "bb3"]
    assert linted("aa2", Path("bb3.py"), "bb") == ["aa2", "bb3"]
    assert linted(since="aa1") == ["aa2", "bb3"]
    assert linted(since="bb3") == []
    assert linted("aa1", "bb3", since="aa2") == ["bb3"]


@pytest.mark.parametrize("target", ["xx", "aa", "", Path("no_such.py")])
def test_what_is_no_migration_or_several_is_refused(files: Files, target: str | Path) -> None:
    for one in ("aa1", "aa2"):
        files.write(one, "pass")

    with pytest.raises(UnknownTargetError):
        files.migrations.lint(target)


def test_no_migration_is_no_finding(files: Files) -> None:
    assert files.migrations.lint() == LintReport((), (), used_squawk=True)

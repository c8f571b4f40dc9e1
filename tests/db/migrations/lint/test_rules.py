"""The rules against the server: the lock that a finding names is the one that PostgreSQL reports."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backstay.db.migrations import MigrationError, MigrationFailedError
from backstay.db.migrations.lint import RULES, Lock

from .conftest import DANGERS, EXAMPLES, GUIDE, Files, rules

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


async def test_a_block_inside_of_a_batch_ends_before_the_batch_runs(files: Files, shop: AsyncEngine) -> None:
    files.write(
        "danger",
        """
        with op.batch_alter_table("orders") as batch_op:
            with op.get_context().autocommit_block():
                batch_op.create_index("ix_orders_total", ["total"], postgresql_concurrently=True)
        """,
    )

    assert rules(files.migrations.lint("danger")) == ["concurrent-in-transaction"]
    with pytest.raises(MigrationError, match="cannot run inside a transaction block"):
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

"""What statements are seen, and what those before them change."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from backstay.db.migrations import (
    Migrations,
)
from backstay.db.migrations.lint._operations import read_operations
from backstay.db.migrations.lint._statements import split_statements

from .conftest import EXAMPLES, ROOT, Files


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


def test_a_batch_runs_at_its_end_whatever_is_around_its_operations(files: Files) -> None:
    index = 'batch_op.create_index("ix", ["a"], postgresql_concurrently=True)'
    batch, block = (
        'with op.batch_alter_table("orders") as batch_op:',
        "with op.get_context().autocommit_block():",
    )

    assert files.lint(f"{block}\n    {batch}\n        {index}\npass") == []
    assert files.lint(f"{batch}\n    {block}\n        {index}\npass") == ["3: concurrent-in-transaction"]


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
    files.write("three", EXAMPLES["check-constraint"][1].partition("if ")[0].replace(">= 0", "IS NOT NULL"))
    made_again = files.lint('op.alter_column("orders", "total", nullable=False)')

    assert validated == []
    assert dropped == made_again == ["1: set-not-null"]


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

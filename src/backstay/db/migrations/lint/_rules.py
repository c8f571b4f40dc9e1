"""The rules: what each finds, which lock that takes, and how to do it without."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["RULES", "Lock", "Rule"]


class Lock(StrEnum):
    """PostgreSQL's table locks that a migration may take, by the server's names, weakest first."""

    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE = "SHARE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    EXCLUSIVE = "EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"

    @property
    def blocks(self) -> str:
        """What a running service cannot do meanwhile."""
        return _BLOCKED[self]


_BLOCKED = {
    Lock.ROW_EXCLUSIVE: "writes to the same rows",
    Lock.SHARE_UPDATE_EXCLUSIVE: "nothing",
    Lock.SHARE: "writes",
    Lock.SHARE_ROW_EXCLUSIVE: "writes",
    Lock.EXCLUSIVE: "writes",
    Lock.ACCESS_EXCLUSIVE: "reads and writes",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that a migration should not do.

    Attributes:
        name: As it is written in `# allow[name]: reason`.
        finding: One sentence with places for `table`, `lock`, `blocks` and `what`, the column or other thing.
        hint: The safe way, as one sentence.
        lock: What it takes on the table; None where the harm is another.
    """

    name: str
    finding: str
    hint: str
    lock: Lock | None = None

    def tell(self, *, tables: Collection[str] = (), what: str = "") -> str:
        """Return the finding about one table, or several that wait together."""
        table = " and ".join(tables)
        lock = self.lock or ""
        blocks = self.lock.blocks if self.lock else ""
        return self.finding.format(table=table, what=what, lock=lock, blocks=blocks)

    def advise(self, *, what: str = "") -> str:
        """Return the safe way for one column or other thing."""
        return self.hint.format(what=what)


_EXPAND = "Deploy code that does without it first, then drop it with `# allow[{0}]: unused since ...`."

_ALL = (
    Rule(
        "index-not-concurrent",
        "CREATE INDEX holds {lock} on {table} while the index is built: {blocks} wait.",
        "Pass postgresql_concurrently=True, inside of `with op.get_context().autocommit_block():`.",
        Lock.SHARE,
    ),
    Rule(
        "drop-index-not-concurrent",
        "DROP INDEX takes {lock} on {table}, after all its running queries: {blocks} wait behind it.",
        "Pass postgresql_concurrently=True, inside of `with op.get_context().autocommit_block():`.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "concurrent-in-transaction",
        "{what} is refused by PostgreSQL inside of a transaction, and a migration runs in one.",
        "Put it into `with op.get_context().autocommit_block():`.",
    ),
    Rule(
        "volatile-default",
        "ADD COLUMN {what} with a value of its own for every row holds {lock} on {table} while all rows are "
        "written anew: {blocks} wait.",
        "Add the column empty, set the default for new rows with op.alter_column, and fill the old rows "
        "in a data migration: `backstay db data new`.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "not-null-without-default",
        "ADD COLUMN {what} takes {lock} on {table} and fails where rows are: NOT NULL without a default.",
        "Pass a constant as server_default, or add the column nullable and fill it first.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "column-type",
        "The new type of {what} holds {lock} on {table} while all rows and indexes are written anew: "
        "{blocks} wait.",
        "Add a column of the new type, write both, fill the old rows in a data migration, then drop the old "
        "column; a wider varchar or numeric needs existing_type to be seen as harmless.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "set-not-null",
        "SET NOT NULL on {what} holds {lock} on {table} while all rows are read: {blocks} wait.",
        "Create a CHECK ({what} IS NOT NULL) with postgresql_not_valid=True, validate it in an "
        "autocommit_block, then set NOT NULL: PostgreSQL believes the CHECK.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "foreign-key",
        "A foreign key holds {lock} on {table} while all rows are checked: {blocks} wait.",
        "Pass postgresql_not_valid=True, then VALIDATE CONSTRAINT in an autocommit_block.",
        Lock.SHARE_ROW_EXCLUSIVE,
    ),
    Rule(
        "check-constraint",
        "A CHECK holds {lock} on {table} while all rows are checked: {blocks} wait.",
        "Pass postgresql_not_valid=True, then VALIDATE CONSTRAINT in an autocommit_block.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "unique-constraint",
        "A unique constraint holds {lock} on {table} while its index is built: {blocks} wait.",
        "Create a unique index concurrently, then ALTER TABLE ... ADD CONSTRAINT ... UNIQUE USING INDEX.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "primary-key",
        "A primary key holds {lock} on {table} while its index is built: {blocks} wait.",
        "Create a unique index concurrently on columns that are NOT NULL, then "
        "ALTER TABLE ... ADD CONSTRAINT ... PRIMARY KEY USING INDEX.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "exclusion-constraint",
        "An exclusion constraint holds {lock} on {table} while its index is built: {blocks} wait.",
        "PostgreSQL has no other way: do it while the table is small or nobody works, and allow it.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "validate-in-same-transaction",
        "VALIDATE CONSTRAINT reads all rows of {table} while this transaction still holds {what}: who waits "
        "for that waits as long.",
        "Put it into `with op.get_context().autocommit_block():`.",
    ),
    Rule(
        "drop-column",
        "DROP COLUMN {what} takes {lock} on {table}, and the code that runs meanwhile still selects it.",
        _EXPAND.format("drop-column"),
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "drop-table",
        "DROP TABLE takes {lock} on {table}, and the code that runs meanwhile still uses it.",
        _EXPAND.format("drop-table"),
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "rename-column",
        "RENAME COLUMN {what} takes {lock} on {table}, and the code that runs meanwhile knows the old name.",
        'Keep the name in the database and rename the attribute: mapped_column("old_name"); or add a column, '
        "write both, fill it, and drop the old one later.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "rename-table",
        "RENAME takes {lock} on {table}, and the code that runs meanwhile knows the old name.",
        "Keep the name in the database and rename the class; or leave a view of the old name behind, in the "
        "same migration, and allow it.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "enum-value-in-transaction",
        "ALTER TYPE {what} ADD VALUE runs inside of a transaction, where nothing can use the new value.",
        "Put it into `with op.get_context().autocommit_block():`.",
    ),
    Rule(
        "data-change",
        "{what} in a migration holds {lock} on {table}, and every row it touches, in one transaction: "
        "{blocks} wait.",
        "Move it into a data migration, which runs in batches: `backstay db data new`.",
        Lock.ROW_EXCLUSIVE,
    ),
    Rule(
        "schema-and-data",
        "{what} of {table} writes row after row while this transaction holds {lock}: {blocks} wait.",
        "Move it into a data migration, which runs in batches: `backstay db data new`.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "several-tables-locked",
        "This transaction holds {lock} on {what} and now waits for {table}: a query that has them the other "
        "way round is a deadlock.",
        "Write one migration for each table.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "truncate",
        "TRUNCATE takes {lock} on {table} and removes all rows, also those that were written a moment ago.",
        "Delete in batches in a data migration, `backstay db data new`; or swap an empty table in.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "table-rewrite",
        "{what} holds {lock} on {table} while all rows are written anew: {blocks} wait.",
        "Let autovacuum do its work, or run pg_repack beside the service.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "reindex",
        "REINDEX holds {lock} on {table}, and ACCESS EXCLUSIVE on each index, while they are built: {blocks} "
        "wait.",
        "REINDEX ... CONCURRENTLY, inside of `with op.get_context().autocommit_block():`.",
        Lock.SHARE,
    ),
    Rule(
        "trigger",
        "CREATE TRIGGER holds {lock} on {table} until the transaction ends: {blocks} wait.",
        "Put it into `with op.get_context().autocommit_block():`, where the lock ends with the statement.",
        Lock.SHARE_ROW_EXCLUSIVE,
    ),
    Rule(
        "refresh-materialized-view",
        "REFRESH MATERIALIZED VIEW holds {lock} on {table} while its query runs: {blocks} wait.",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY; it needs a unique index on the view.",
        Lock.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "hidden-statements",
        "DO runs statements that cannot be read from here, and so are not checked.",
        "Write them as calls of op.execute, or allow it.",
    ),
    Rule(
        "cannot-be-rendered",
        "upgrade() stopped here when it ran without a database, so what follows is not checked: {what}.",
        "Write statements that need no answer of the database; work on rows is for a data migration.",
    ),
    Rule(
        "imports-models",
        "{what} is a model of today; the migration will run against the table of its own day, and fail or "
        "write the wrong columns.",
        'Name the table and the columns that you need: sa.table("name", sa.column("id")).',
    ),
    Rule(
        "interpolated-sql",
        "A value is pasted into the text of {what}: a quote in it ends the statement or changes it.",
        'Bind it: op.execute(sa.text("... :value").bindparams(value=value)).',
    ),
    Rule(
        "irreversible",
        "downgrade() {what}, so a release that carries this migration cannot be taken back.",
        "Write what takes upgrade() back, or why there is no way: `# allow[irreversible]: reason` above it.",
    ),
    Rule(
        "allow-without-reason",
        "allow[{what}] gives no reason.",
        "Write what makes it safe here, as in `# allow[drop-column]: unused since 1.4`.",
    ),
    Rule(
        "unused-allow",
        "allow[{what}] allows nothing here.",
        "Remove it, or move it to the line of the call or right above.",
    ),
)

RULES = {rule.name: rule for rule in _ALL}
"""Every rule, by its name."""

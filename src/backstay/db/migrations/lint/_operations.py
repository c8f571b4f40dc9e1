"""What the statements of a migration do to tables, read from their words alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from backstay.db.migrations.lint._rules import Lock
from backstay.db.migrations.lint._statements import name_of, split_commas, words_of

__all__ = ["Operation", "read_operations"]

Kind = Literal[
    "begins", "ends", "creates", "renames", "indexes", "proves", "validates", "drops-constraint", "other"
]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a statement does.

    Attributes:
        table: On what; two names when a foreign key locks both.
        rule: What is wrong with it, unless the circumstances make it harmless.
        lock: What it takes on each table until the transaction ends.
        what: The column, constraint, index or command that it is about.
        kind: What it means for the statements that follow.
        column: The column that a CHECK proves to be NOT NULL.
        is_refused_in_transaction: PostgreSQL runs it outside of transactions only.
    """

    tables: tuple[str, ...] = ()
    rule: str | None = None
    lock: Lock | None = None
    what: str = ""
    kind: Kind = "other"
    column: str = ""
    is_refused_in_transaction: bool = False


def read_operations(statement: str) -> Iterator[Operation]:
    """Yield what a statement does, as far as it matters to others; nothing for what is harmless."""
    match words_of(statement):
        case ["BEGIN" | "START", *_]:
            yield Operation(kind="begins")
        case ["COMMIT" | "END" | "ROLLBACK"] | ["COMMIT" | "END" | "ROLLBACK", "WORK" | "TRANSACTION"]:
            yield Operation(kind="ends")
        case ["CREATE", *rest]:
            yield from _create(rest)
        case ["ALTER", "TABLE", table, *rest]:
            for action in split_commas(rest):
                yield from _alter(name_of(table), action)
        case ["ALTER", "TYPE", name, "ADD", "VALUE", *_]:
            yield Operation((name_of(name),), "enum-value-in-transaction", what=name_of(name))
        case ["DROP", *rest]:
            yield from _drop(rest)
        case ["LOCK", "TABLE", table, "IN", *mode, "MODE"] | ["LOCK", table, "IN", *mode, "MODE"]:
            yield from (Operation((name_of(table),), lock=lock) for lock in Lock if lock == " ".join(mode))
        case ["DO", *_]:
            yield Operation(rule="hidden-statements")
        case rest:
            yield from _maintain(rest)
            yield from _change_rows(rest)


def _create(words: Sequence[str]) -> Iterator[Operation]:
    match words:
        case ["UNIQUE", *rest] if rest[:1] == ["INDEX"]:
            yield from _create(rest)
        case ["INDEX", "CONCURRENTLY", _, *_]:
            lock = Lock.SHARE_UPDATE_EXCLUSIVE
            yield from _index(words[2:], Operation(lock=lock, what="CREATE INDEX CONCURRENTLY"))
        case ["INDEX", _, *_]:
            yield from _index(words[1:], Operation(rule="index-not-concurrent", lock=Lock.SHARE))
        case ["OR", "REPLACE", *rest] | ["CONSTRAINT", *rest] if "TRIGGER" in rest[:2]:
            yield from _create(rest)
        case ["TRIGGER", name, *rest] if "ON" in rest:
            yield Operation((_name_after("ON", rest),), "trigger", Lock.SHARE_ROW_EXCLUSIVE, name_of(name))
        case ["TABLE" | "TYPE", name, *_] | ["MATERIALIZED", "VIEW", name, *_]:
            yield Operation((name_of(name),), kind="creates")
        case ["TEMP" | "TEMPORARY" | "UNLOGGED" | "LOCAL" | "GLOBAL", *rest]:
            yield from _create(rest)


def _index(words: Sequence[str], base: Operation) -> Iterator[Operation]:
    table = _name_after("ON", words)
    yield Operation(("" if words[:1] == ["ON"] else name_of(words[0]), table), kind="indexes")
    yield Operation(
        (table,), base.rule, base.lock, base.what, is_refused_in_transaction="CONCURRENTLY" in base.what
    )


def _name_after(keyword: str, words: Sequence[str]) -> str:
    """Return the name behind a keyword; nothing when the statement ends before."""
    behind = words[words.index(keyword) + 1 :] if keyword in words else ()
    return name_of(behind[0]) if behind else ""


def _drop(words: Sequence[str]) -> Iterator[Operation]:
    match words:
        case ["TABLE", *names]:
            for table in _names(names):
                yield Operation((table,), "drop-table", Lock.ACCESS_EXCLUSIVE, table)
        case ["INDEX", "CONCURRENTLY", *names]:
            for index in _names(names):
                what = "DROP INDEX CONCURRENTLY"
                yield Operation((index,), what=what, is_refused_in_transaction=True)
        case ["INDEX", *names]:
            for index in _names(names):
                yield Operation((index,), "drop-index-not-concurrent", Lock.ACCESS_EXCLUSIVE, index)
        case ["TRIGGER", name, "ON", table, *_]:
            yield Operation((name_of(table),), lock=Lock.ACCESS_EXCLUSIVE, what=name_of(name))


def _names(words: Sequence[str]) -> list[str]:
    return [name_of(part[0]) for part in split_commas(words)]


def _alter(table: str, action: Sequence[str]) -> Iterator[Operation]:
    match action:
        case ["ADD", *rest]:
            yield from _add(table, rest)
        case ["VALIDATE", "CONSTRAINT", name]:
            yield Operation((table,), None, Lock.SHARE_UPDATE_EXCLUSIVE, name_of(name), "validates")
        case ["DROP", "CONSTRAINT", name, *_]:
            yield Operation((table,), None, Lock.ACCESS_EXCLUSIVE, name_of(name), "drops-constraint")
        case ["DROP", "COLUMN", name, *_] | ["DROP", name, *_]:
            yield Operation((table,), "drop-column", Lock.ACCESS_EXCLUSIVE, name_of(name))
        case ["ALTER", "COLUMN", name, *rest] | ["ALTER", name, *rest]:
            yield from _alter_column(table, name_of(name), rest)
        case ["RENAME" | "SET", *_]:
            yield from _alter_table(table, action)


def _alter_table(table: str, action: Sequence[str]) -> Iterator[Operation]:
    match action:
        case ["RENAME", "TO", name]:
            yield Operation((table,), "rename-table", Lock.ACCESS_EXCLUSIVE, name_of(name), "renames")
        case ["SET", "SCHEMA", schema]:
            moved = f"{name_of(schema)}.{table.rpartition('.')[2]}"
            yield Operation((table,), "rename-table", Lock.ACCESS_EXCLUSIVE, moved, "renames")
        case ["RENAME", "CONSTRAINT", *_]:
            yield Operation((table,), None, Lock.ACCESS_EXCLUSIVE)
        case ["RENAME", "COLUMN", name, "TO", _] | ["RENAME", name, "TO", _]:
            yield Operation((table,), "rename-column", Lock.ACCESS_EXCLUSIVE, name_of(name))
        case ["SET", "LOGGED" | "UNLOGGED" | "TABLESPACE" | "ACCESS", *_]:
            what = f"ALTER TABLE ... {' '.join(action[:2])}"
            yield Operation((table,), "table-rewrite", Lock.ACCESS_EXCLUSIVE, what)


def _add(table: str, words: Sequence[str]) -> Iterator[Operation]:
    match words:
        case ["CONSTRAINT", name, *rest]:
            yield from _constraint(table, rest, name_of(name))
        case ["FOREIGN" | "CHECK" | "UNIQUE" | "PRIMARY" | "EXCLUDE", *_]:
            yield from _constraint(table, words, "")
        case ["COLUMN", name, *definition] | [name, *definition]:
            yield from _column(table, name_of(name), definition)


def _constraint(table: str, words: Sequence[str], name: str) -> Iterator[Operation]:
    is_checked = words[-2:] != ["NOT", "VALID"]
    match words:
        case ["CHECK", "(", *rest]:
            rule = "check-constraint" if is_checked else None
            yield Operation((table,), rule, Lock.ACCESS_EXCLUSIVE, name)
            yield Operation((table,), what=name, kind="proves", column=_proven(rest))
            if is_checked:
                yield Operation((table,), what=name, kind="validates")
        case ["FOREIGN", "KEY", *rest]:
            tables = tuple(dict.fromkeys((table, _name_after("REFERENCES", rest))))
            yield Operation(tables, "foreign-key" if is_checked else None, Lock.SHARE_ROW_EXCLUSIVE, name)
        case ["UNIQUE" | "PRIMARY", *rest] if "USING" in rest and "INDEX" in rest:
            yield Operation((table,), None, Lock.ACCESS_EXCLUSIVE, name)
        case ["UNIQUE", *_]:
            yield Operation((table,), "unique-constraint", Lock.ACCESS_EXCLUSIVE, name)
        case ["PRIMARY", *_]:
            yield Operation((table,), "primary-key", Lock.ACCESS_EXCLUSIVE, name)
        case ["EXCLUDE", *_]:
            yield Operation((table,), "exclusion-constraint", Lock.ACCESS_EXCLUSIVE, name)


def _proven(expression: Sequence[str]) -> str:
    """Return the column that a CHECK says is never NULL, when it says nothing else."""
    match [word for word in expression if word not in {"(", ")", "NOT", "VALID"}]:
        case [column, "IS", "NULL"] if "NOT" in expression[: expression.index("NULL")]:
            return name_of(column)
    return ""


# Where a column's default ends and something else is said of the column.
_CLAUSES = {"NOT", "NULL", "CONSTRAINT", "UNIQUE", "PRIMARY", "CHECK", "REFERENCES", "GENERATED", "COLLATE"}
_SERIAL = {"SERIAL", "BIGSERIAL", "SMALLSERIAL", "SERIAL2", "SERIAL4", "SERIAL8"}
# Functions that have one value for the whole statement, and types with a length; others may be volatile.
_ONE_VALUE = {
    "ARRAY", "BIT", "CAST", "CHAR", "CHARACTER", "COALESCE", "CURRENT_TIMESTAMP", "DATE_TRUNC", "DECIMAL",
    "JSONB_BUILD_ARRAY", "JSONB_BUILD_OBJECT", "LOCALTIMESTAMP", "LOWER", "NOW", "NUMERIC",
    "STATEMENT_TIMESTAMP", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "TIMEZONE", "TO_TIMESTAMP",
    "TRANSACTION_TIMESTAMP", "UPPER", "VARCHAR", "VARYING",
}  # fmt: skip


def _column(table: str, column: str, definition: Sequence[str]) -> Iterator[Operation]:
    default = _default(definition)
    generated = _SERIAL.intersection(definition[:1]) or "GENERATED" in definition
    lock = Lock.ACCESS_EXCLUSIVE
    if generated or _is_volatile(default):
        yield Operation((table,), "volatile-default", lock, column)
    elif "NOT" in definition and not default:
        yield Operation((table,), "not-null-without-default", lock, column)
    else:
        yield Operation((table,), None, lock, column)
    if "UNIQUE" in definition:
        yield Operation((table,), "unique-constraint", lock, column)
    if "PRIMARY" in definition:
        yield Operation((table,), "primary-key", lock, column)
    if "CHECK" in definition:
        yield Operation((table,), "check-constraint", lock, column)
    # PostgreSQL knows that a new column without a default refers to nothing.
    if "REFERENCES" in definition and default:
        other = _name_after("REFERENCES", definition)
        yield Operation((table, other), "foreign-key", Lock.SHARE_ROW_EXCLUSIVE, column)


def _default(definition: Sequence[str]) -> list[str]:
    if "DEFAULT" not in definition:
        return []
    default: list[str] = []
    depth = 0
    for word in definition[definition.index("DEFAULT") + 1 :]:
        depth += {"(": 1, ")": -1}.get(word, 0)
        if default and not depth and word in _CLAUSES:
            break
        default.append(word)
    return [] if default == ["NULL"] else default


def _is_volatile(expression: Sequence[str]) -> bool:
    called = {word for word, after in pairwise(expression) if after == "("}
    return any(word[0].isalpha() and word not in _ONE_VALUE for word in called)


def _alter_column(table: str, column: str, action: Sequence[str]) -> Iterator[Operation]:
    lock = Lock.ACCESS_EXCLUSIVE
    match action:
        case ["TYPE", *_] | ["SET", "DATA", "TYPE", *_]:
            yield Operation((table,), "column-type", lock, column)
        case ["SET", "NOT", "NULL"]:
            yield Operation((table,), "set-not-null", lock, column, column=column)
        case ["SET", "STATISTICS", *_]:
            yield Operation((table,), None, Lock.SHARE_UPDATE_EXCLUSIVE, column)
        case _:
            yield Operation((table,), None, lock, column)


def _maintain(words: Sequence[str]) -> Iterator[Operation]:
    match words:
        case ["TRUNCATE", "TABLE", *names] | ["TRUNCATE", *names]:
            for table in _names(names):
                yield Operation((table,), "truncate", Lock.ACCESS_EXCLUSIVE)
        case ["REFRESH", "MATERIALIZED", "VIEW", "CONCURRENTLY", view, *_]:
            yield Operation((name_of(view),), None, Lock.EXCLUSIVE)
        case ["REFRESH", "MATERIALIZED", "VIEW", view, *_]:
            yield Operation((name_of(view),), "refresh-materialized-view", Lock.ACCESS_EXCLUSIVE)
        case ["REINDEX", *rest]:
            yield from _reindex(rest)
        case ["VACUUM", *rest]:
            rule = "table-rewrite" if "FULL" in rest else None
            lock = Lock.ACCESS_EXCLUSIVE if rule else Lock.SHARE_UPDATE_EXCLUSIVE
            what = "VACUUM FULL" if rule else "VACUUM"
            yield Operation(_last_name(rest), rule, lock, what, is_refused_in_transaction=True)
        case ["CLUSTER", *rest]:
            clustered = tuple(name_of(word) for word in rest if word != "VERBOSE")[:1]
            yield Operation(clustered, "table-rewrite", Lock.ACCESS_EXCLUSIVE, "CLUSTER")


def _reindex(words: Sequence[str]) -> Iterator[Operation]:
    if "CONCURRENTLY" in words:
        what = "REINDEX CONCURRENTLY"
        yield Operation(_last_name(words), what=what, is_refused_in_transaction=True)
    else:
        yield Operation(_last_name(words), "reindex", Lock.SHARE)


def _last_name(words: Sequence[str]) -> tuple[str, ...]:
    named = [word for word in words if word not in {"FULL", "VERBOSE", "ANALYZE", "FREEZE", "(", ")"}]
    return (name_of(named[-1]),) if named else ("every table",)


def _change_rows(words: Sequence[str]) -> Iterator[Operation]:
    match words:
        case ["WITH", *rest]:
            verbs = [word for word in rest if word in {"UPDATE", "DELETE", "INSERT", "MERGE"}]
            if verbs:
                yield from _change_rows(rest[rest.index(verbs[0]) :])
        case ["UPDATE", table, *_] | ["DELETE", "FROM", table, *_] | ["MERGE", "INTO", table, *_]:
            yield Operation((name_of(table),), "data-change", Lock.ROW_EXCLUSIVE, words[0])
        case ["INSERT", "INTO", table, *rest] if "SELECT" in rest:
            yield Operation((name_of(table),), "schema-and-data", Lock.ROW_EXCLUSIVE, "INSERT")

"""Which operations do harm where they stand: after what was created, locked and proven before them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from backstay.db.migrations.lint._operations import Operation, read_operations
from backstay.db.migrations.lint._rendering import Statement
from backstay.db.migrations.lint._rules import RULES, Lock, Rule

__all__ = ["Judge", "Ledger", "Verdict"]

_BLOCKS_WRITES = {Lock.SHARE_ROW_EXCLUSIVE, Lock.EXCLUSIVE, Lock.ACCESS_EXCLUSIVE}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule that a statement breaks, and about what."""

    rule: Rule
    line: int
    tables: tuple[str, ...] = ()
    what: str = ""


@dataclass(slots=True)
class Ledger:
    """What the migrations so far have left behind, as far as a later one may rest on it."""

    tables_of_indexes: dict[str, str] = field(default_factory=dict)
    checks: dict[tuple[str, str], str] = field(default_factory=dict)
    validated: set[tuple[str, str]] = field(default_factory=set)

    def learn(self, operation: Operation) -> None:
        """Take note of an index, or of a CHECK that is made, validated or dropped."""
        match operation:
            case Operation(kind="indexes", tables=(index, table)):
                self.tables_of_indexes[index] = table
            case Operation(kind="proves", tables=(table,), what=name, column=column):
                self.checks[table, name] = column
                self.validated.discard((table, name))
            case Operation(kind="validates", tables=(table,), what=name):
                self.validated.add((table, name))
            case Operation(kind="drops-constraint", tables=(table,), what=name):
                self.validated.discard((table, name))

    def is_proven(self, table: str, column: str) -> bool:
        """Whether a validated CHECK says that the column is never NULL."""
        return any(self.checks.get(key) == column for key in self.validated if key[0] == table)


class Judge:
    """Hears the statements of one migration in their order; its transaction is open when it begins."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._created: set[str] = set()
        self._in_transaction = True
        self._held: dict[str, set[Lock]] = {}

    def hear(self, statement: Statement) -> Iterator[Verdict]:
        """Yield what is wrong with the next statement."""
        for operation in read_operations(statement.sql):
            known = self._resolve(operation, statement)
            for rule, tables, what in self._judge(known, statement):
                yield Verdict(RULES[rule], statement.line, tables, what)
            self._remember(known)
        if not self._in_transaction:
            self._held.clear()

    def _resolve(self, operation: Operation, statement: Statement) -> Operation:
        """Name the table of an index: PostgreSQL's DROP INDEX does not."""
        if operation.kind == "indexes":
            return operation
        told = {operation.what: statement.index_table} if statement.index_table else {}
        tables = {**self._ledger.tables_of_indexes, **told}
        return replace(operation, tables=tuple(tables.get(name, name) for name in operation.tables))

    def _judge(
        self, operation: Operation, statement: Statement
    ) -> Iterator[tuple[str, tuple[str, ...], str]]:
        tables = tuple(table for table in operation.tables if table not in self._created)
        if operation.is_refused_in_transaction and self._in_transaction:
            yield "concurrent-in-transaction", operation.tables, operation.what
        if operation.tables and not tables:
            return
        rule = self._find_rule(operation, statement)
        if rule:
            yield rule, tables, self._subject(operation, rule)
        if operation.lock is Lock.ACCESS_EXCLUSIVE and self._in_transaction:
            locked = self._locked_beside(tables[0])
            if locked:
                yield "several-tables-locked", tables, " and ".join(locked)

    def _find_rule(self, operation: Operation, statement: Statement) -> str | None:
        is_locked = any(Lock.ACCESS_EXCLUSIVE in locks for locks in self._held.values())
        match operation.rule:
            case "data-change" if is_locked:
                return "schema-and-data"
            case None if operation.kind == "validates" and operation.lock and self._blocking():
                return "validate-in-same-transaction"
        return None if self._is_harmless(operation, statement, is_locked=is_locked) else operation.rule

    def _is_harmless(self, operation: Operation, statement: Statement, *, is_locked: bool) -> bool:
        match operation.rule:
            case "schema-and-data":
                return not is_locked
            case "trigger" | "enum-value-in-transaction":
                return not self._in_transaction
            case "column-type":
                return statement.is_widening
            case "set-not-null":
                return self._ledger.is_proven(operation.tables[0], operation.column)
        return False

    def _blocking(self) -> list[str]:
        """Return the locks that keep others from writing, with their tables."""
        held = ((table, max(locks, key=list(Lock).index)) for table, locks in self._held.items())
        return [f"{lock} on {table}" for table, lock in held if lock in _BLOCKS_WRITES]

    def _subject(self, operation: Operation, rule: str) -> str:
        if rule == "validate-in-same-transaction":
            return " and ".join(self._blocking())
        return operation.what

    def _locked_beside(self, table: str) -> list[str]:
        if Lock.ACCESS_EXCLUSIVE in self._held.get(table, set()):
            return []
        return [other for other, locks in self._held.items() if Lock.ACCESS_EXCLUSIVE in locks]

    def _remember(self, operation: Operation) -> None:
        self._ledger.learn(operation)
        if operation.kind in {"begins", "ends"}:
            self._in_transaction = operation.kind == "begins"
            self._held.clear()
        if operation.kind == "creates":
            self._created.update(operation.tables)
        if operation.kind == "renames" and self._created.issuperset(operation.tables):
            self._created.add(operation.what)
        for table in operation.tables:
            if operation.lock and table not in self._created:
                self._held.setdefault(table, set()).add(operation.lock)

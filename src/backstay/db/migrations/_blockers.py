"""Who stands in a migration's way on PostgreSQL, and what one that broke off has left behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import bindparam, text
from sqlalchemy.engine import Connection

__all__ = ["Blocker", "find_blockers", "list_invalid_indexes"]

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that holds a lock on a table.

    Attributes:
        age: How long it has been in its transaction; None where this user may not know.
    """

    pid: int
    application: str
    age: timedelta | None
    table: str

    def __str__(self) -> str:
        age = self.age and f"{self.age.total_seconds():.0f} s in its transaction"
        known = ", ".join(part for part in (self.application, age) if part)
        return f"process {self.pid}{known and f' ({known})'} holds a lock on {self.table}"


_BLOCKERS = text(
    """
    SELECT activity.pid, activity.application_name, now() - min(activity.xact_start), min(class.relname)
    FROM pg_locks AS held
    JOIN pg_class AS class ON class.oid = held.relation
    JOIN pg_stat_activity AS activity ON activity.pid = held.pid
    WHERE held.granted AND held.locktype = 'relation' AND class.relname IN :words
    AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND held.pid <> pg_backend_pid()
    AND (:takes_all OR held.mode NOT IN ('AccessShareLock', 'RowShareLock'))
    GROUP BY activity.pid, activity.application_name
    ORDER BY min(activity.xact_start) LIMIT :shown
    """
).bindparams(bindparam("words", expanding=True))


def find_blockers(connection: Connection, statement: str) -> tuple[Blocker, ...]:
    """Return who holds a lock on the tables that a statement names, the oldest transaction first.

    They are looked for after the statement has given up: the session that waits can ask nothing itself.
    """
    parameters = {
        "words": sorted(set(re.findall(r"\w+", statement))) or [""],
        "takes_all": not statement.lstrip().upper().startswith("CREATE"),
        "shown": _SHOWN,
    }
    rows = connection.execute(_BLOCKERS, parameters).all()
    connection.rollback()
    return tuple(Blocker(*row) for row in rows)


_INVALID = text(
    """
    SELECT index_class.oid::regclass::text, table_class.oid::regclass::text
    FROM pg_index AS i
    JOIN pg_class AS index_class ON index_class.oid = i.indexrelid
    JOIN pg_class AS table_class ON table_class.oid = i.indrelid
    WHERE NOT i.indisvalid ORDER BY 1
    """
)


def list_invalid_indexes(connection: Connection) -> dict[str, str]:
    """Return the indexes that a broken-off CONCURRENTLY has left, with their tables, as SQL names them."""
    return {str(index): str(table) for index, table in connection.execute(_INVALID)}

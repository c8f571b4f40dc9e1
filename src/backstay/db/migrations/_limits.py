"""PostgreSQL's time limits around migrations: nobody queues for long behind one that waits for a lock."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import Connection

from backstay.settings import MigrationSettings

__all__ = ["begin_limited", "limited", "pause", "waiting_concurrently"]

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0

_READ = text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
_SET = text(
    "SELECT set_config('lock_timeout', :lock, false), set_config('statement_timeout', :statement, false)"
)
_CHANGE = "SELECT set_config('lock_timeout', '{new}', false) WHERE current_setting('lock_timeout') = '{old}'"


@contextmanager
def limited(connection: Connection, settings: MigrationSettings) -> Iterator[None]:
    """Set the limits for a connection that is in no transaction, and put back what it had afterwards.

    They belong to the session, so that they hold in autocommit blocks too; each migration begins with them
    anew, whatever the one before has set for itself. SQLite has no such limits.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    lock, statement = connection.execute(_READ).one()
    begin_limited(connection, settings)
    connection.commit()
    try:
        yield
    finally:
        _restore(connection, {"lock": lock, "statement": statement})


def begin_limited(connection: Connection, settings: MigrationSettings) -> None:
    """Set the limits inside of a transaction; a migration may then change them for itself."""
    if connection.dialect.name == "postgresql":
        limits = {"lock": settings.lock_timeout, "statement": settings.statement_timeout}
        connection.execute(_SET, {name: _milliseconds(limit) for name, limit in limits.items()})


def _milliseconds(limit: timedelta) -> str:
    # 0 is "no limit": what is set to less than a millisecond shall not become that.
    return str(max(1, int(limit / timedelta(milliseconds=1))) if limit else 0)


def _restore(connection: Connection, limits: dict[str, Any]) -> None:
    if connection.invalidated:
        return
    try:
        connection.rollback()
        connection.execute(_SET, limits)
        connection.commit()
    except BaseException:
        connection.invalidate()
        raise


@contextmanager
def waiting_concurrently(connection: Connection) -> Iterator[None]:
    """Let CONCURRENTLY statements wait for as long as a statement may run.

    They wait for transactions to end, and nobody waits behind them: giving up early would help nobody and
    leave an invalid index. A migration that has set a lock timeout of its own keeps it.
    """
    ours = str(connection.execute(_READ).one()[0])
    changed: list[bool] = []

    def before(_: Connection, __: object, statement: str, *___: object) -> None:
        if _is_concurrent(statement):
            changed.append(_change(connection, old=ours, new="0"))

    def after(_: Connection, __: object, statement: str, *___: object) -> None:
        if _is_concurrent(statement) and changed.pop():
            _change(connection, old="0", new=ours)

    event.listen(connection, "before_cursor_execute", before)
    event.listen(connection, "after_cursor_execute", after)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", before)
        event.remove(connection, "after_cursor_execute", after)


def _is_concurrent(statement: str) -> bool:
    return "CONCURRENTLY" in statement.upper()


def _change(connection: Connection, *, old: str, new: str) -> bool:
    """Change the lock timeout if it is what we think, and return whether it was."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(_CHANGE.format(old=old, new=new))
        return cursor.fetchone() is not None
    finally:
        cursor.close()


def pause(connection: Connection, *, attempt: int) -> None:
    """Wait before the next attempt, longer each time and never as long as another process does.

    The server does the waiting, so that no event loop is blocked.
    """
    longest = min(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)
    seconds = random.uniform(longest / 2, longest)  # noqa: S311  no secret
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
    connection.rollback()

"""Rows whose time is over, in batches: any number of processes may sweep at once."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from backstay.db.database import Database

__all__ = ["BATCH", "choose_batch", "sweep_rows"]

BATCH: Final = 1000


def choose_batch(key: sa.Column[str], is_over: sa.ColumnElement[bool], oldest: sa.Column[object]) -> sa.CTE:
    """Return the keys of the oldest rows that are over, without those that somebody holds."""
    chosen = sa.select(key).where(is_over).order_by(oldest).limit(BATCH)
    # As a table expression it runs once, which a subquery with a limit need not.
    return chosen.with_for_update(skip_locked=True).cte("batch")


async def sweep_rows(
    database: Database, key: sa.Column[str], *, is_over: sa.ColumnElement[bool], oldest: sa.Column[object]
) -> bool:
    """Delete a batch of rows in a transaction of its own; return whether more may be left."""
    batch = choose_batch(key, is_over, oldest)
    statement = sa.delete(key.table).where(key.in_(sa.select(batch))).returning(key)
    async with database.transaction() as session:
        # SQLite counts no rows of a statement that begins with WITH.
        return len((await session.execute(statement)).all()) == BATCH

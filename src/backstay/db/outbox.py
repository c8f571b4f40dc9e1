"""The outbox: work that a transaction leaves for after its commit, in a table of the library's own.

The row lives and dies with the transaction, so the work is neither lost in a crash nor done for a transaction
that was rolled back. `backstay.db.relay` takes it from here.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from backstay.db.model import NAMING_CONVENTION, new_id
from backstay.db.types import String, UTCDateTime, Uuid

__all__ = ["add_note", "find_any", "find_notes", "outbox_table", "remove_notes"]

_RECORDS: Final = sa.MetaData(naming_convention=NAMING_CONVENTION)

outbox_table: Final = sa.Table(
    "backstay_outbox",
    _RECORDS,
    sa.Column("id", Uuid(), primary_key=True),
    sa.Column("topic", String(200), nullable=False, index=True),
    sa.Column("payload", String(), nullable=False),
    sa.Column("created_at", UTCDateTime(), nullable=False),
)
"""One row for each piece of work that is not done yet."""

_COLUMNS: Final = outbox_table.c


def add_note(topic: str, payload: str) -> sa.Insert:
    """Return the statement that leaves work."""
    values = {"id": new_id(), "topic": topic, "payload": payload, "created_at": datetime.now(UTC)}
    return sa.insert(outbox_table).values(values)


def find_notes(topic: str, *, limit: int) -> sa.Select[tuple[UUID, str]]:
    """Return the query for the oldest work of a topic, as identifier and payload.

    Where the database can lock rows it skips those that somebody else has locked.
    """
    of_topic = sa.select(_COLUMNS.id, _COLUMNS.payload).where(_COLUMNS.topic == topic)
    return of_topic.order_by(_COLUMNS.id).limit(limit).with_for_update(skip_locked=True)


def find_any(topics: Collection[str]) -> sa.Select[tuple[bool]]:
    """Return the query whether any work of these topics is left, also work that somebody else is at."""
    return sa.select(sa.exists().where(_COLUMNS.topic.in_(topics)))


def remove_notes(identifiers: Collection[UUID]) -> sa.Delete:
    """Return the statement that removes work that is done."""
    return sa.delete(outbox_table).where(_COLUMNS.id.in_(identifiers))

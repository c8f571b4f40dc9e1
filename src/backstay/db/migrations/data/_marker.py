"""The marker: one row per data migration, which says how far it is and changes with each batch.

The table is the migration tool's own bookkeeping, as `alembic_version` is, and so made at its first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from backstay.db.migrations.data._batches import Batch, Key, decode_key, encode_key
from backstay.db.migrations.data._files import DataMigration
from backstay.db.types import JSON, Integer, String, UTCDateTime

__all__ = ["Marker", "create_table", "forget_after", "lock_marker", "read_markers", "write_marker"]

_TABLE = sa.Table(
    "backstay_data_migrations",
    sa.MetaData(),
    sa.Column("name", String(200), primary_key=True),
    sa.Column("revision", String(200)),
    sa.Column("last_key", JSON()),
    sa.Column("rows_done", Integer(), nullable=False),
    sa.Column("rows_changed", Integer(), nullable=False),
    sa.Column("batches_done", Integer(), nullable=False),
    sa.Column("started_at", UTCDateTime(), nullable=False),
    sa.Column("updated_at", UTCDateTime(), nullable=False),
    sa.Column("finished_at", UTCDateTime()),
)
# Two processes that create the table at once: on PostgreSQL even IF NOT EXISTS lets one of them fail.
_CREATING = int.from_bytes(b"markers?", "big")


@dataclass(frozen=True, slots=True)
class Marker:
    """How far a data migration is."""

    last_key: Key | None = None
    rows_done: int = 0
    rows_changed: int = 0
    batches_done: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_done(self) -> bool:
        """Whether the end of the table was reached."""
        return self.finished_at is not None

    def behind(self, batch: Batch, *, changed: int) -> Marker:
        """Return the marker as it is after a batch."""
        return replace(
            self,
            last_key=batch.last,
            rows_done=self.rows_done + batch.size,
            rows_changed=self.rows_changed + changed,
            batches_done=self.batches_done + 1,
        )

    def at_end(self) -> Marker:
        """Return the marker as it is when no row is left."""
        return replace(self, finished_at=datetime.now(UTC))


def create_table(connection: Connection) -> None:
    """Create the table of the markers, inside the caller's transaction, unless it is there."""
    if sa.inspect(connection).has_table(_TABLE.name):
        return
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATING})
    _TABLE.create(connection, checkfirst=True)


def read_markers(connection: Connection) -> Mapping[str, Marker]:
    """Return the markers by the names of their data migrations; one that never ran has none."""
    if not sa.inspect(connection).has_table(_TABLE.name):
        return {}
    return {row.name: _read(row) for row in connection.execute(sa.select(_TABLE))}


def lock_marker(connection: Connection, migration: DataMigration) -> Marker:
    """Return the marker, and keep others from moving it until the transaction ends."""
    locked = sa.select(_TABLE).where(_TABLE.c.name == migration.name).with_for_update()
    row = connection.execute(locked).one_or_none()
    if row is None:
        _insert(connection, migration)
        row = connection.execute(locked).one()
    return _read(row)


def _insert(connection: Connection, migration: DataMigration) -> None:
    # Two processes may begin at once: the second one waits here, and then finds the first one's row.
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert
    now = datetime.now(UTC)
    fresh = insert(_TABLE).values(
        name=migration.name,
        revision=migration.after,
        rows_done=0,
        rows_changed=0,
        batches_done=0,
        started_at=now,
        updated_at=now,
    )
    connection.execute(fresh.on_conflict_do_nothing())


def write_marker(connection: Connection, name: str, marker: Marker) -> None:
    """Store a marker that `lock_marker` has read and that has moved since.

    Raises:
        LookupError: Its key is of a type that cannot be kept.
    """
    stored = sa.update(_TABLE).where(_TABLE.c.name == name)
    values = {
        "last_key": None if marker.last_key is None else encode_key(marker.last_key),
        "rows_done": marker.rows_done,
        "rows_changed": marker.rows_changed,
        "batches_done": marker.batches_done,
        "updated_at": datetime.now(UTC),
        "finished_at": marker.finished_at,
    }
    connection.execute(stored.values(values))


def forget_after(connection: Connection, revision: str) -> None:
    """Forget the data migrations that build on a schema migration: with it, their work is taken back."""
    if sa.inspect(connection).has_table(_TABLE.name):
        connection.execute(sa.delete(_TABLE).where(_TABLE.c.revision == revision))


def _read(row: Row[Any]) -> Marker:
    return Marker(
        last_key=None if row.last_key is None else decode_key(row.last_key),
        rows_done=row.rows_done,
        rows_changed=row.rows_changed,
        batches_done=row.batches_done,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )

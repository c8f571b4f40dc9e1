"""Data migrations: rows changed in batches beside the schema's migrations, while the service serves.

A file of `migrations/data` names the table and the schema migration it builds on, and holds a plain function:

    def migrate(connection: Connection, batch: Batch) -> int:
        users = sa.table("users", sa.column("user_id"), sa.column("name"), sa.column("full_name"))
        change = sa.update(users).where(batch.holds(users.c.user_id))
        return connection.execute(change.values(full_name=users.c.name)).rowcount

It gets a synchronous connection, as `op.execute` of a schema migration does, so that both read alike and
a file keeps working whatever the service's models become.
"""

from backstay.db.migrations.data._batches import Batch, Key, KeyValue
from backstay.db.migrations.data._errors import (
    BrokenDataMigrationError,
    DataMigrationBlockedError,
    DataMigrationFailedError,
    DataMigrationRunningError,
    DataMigrationTooEarlyError,
    DataMigrationUnfinishedError,
    UnknownDataMigrationError,
)
from backstay.db.migrations.data._files import DataMigration, Migrate
from backstay.db.migrations.data._runner import DataMigrations, DataProgress, Rehearsal

__all__ = [
    "Batch",
    "BrokenDataMigrationError",
    "DataMigration",
    "DataMigrationBlockedError",
    "DataMigrationFailedError",
    "DataMigrationRunningError",
    "DataMigrationTooEarlyError",
    "DataMigrationUnfinishedError",
    "DataMigrations",
    "DataProgress",
    "Key",
    "KeyValue",
    "Migrate",
    "Rehearsal",
    "UnknownDataMigrationError",
]

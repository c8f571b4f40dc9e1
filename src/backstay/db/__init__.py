"""The database: engines, sessions, transactions, tables, migrations."""

from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db._errors import as_app_error, is_lost, is_refusal, is_repeatable
from backstay.db._pool import PoolUse
from backstay.db._session import ReadingSession, TransactionSession
from backstay.db.database import Database, IsolationLevel
from backstay.db.model import Model, TimestampMixin, new_id
from backstay.db.outbox import outbox_table
from backstay.db.relay import Deliver, Relay
from backstay.db.sources import row
from backstay.db.version import VersionMixin, version_of

__all__ = [
    "AsyncSession",
    "Database",
    "Deliver",
    "IsolationLevel",
    "Model",
    "PoolUse",
    "ReadingSession",
    "Relay",
    "TimestampMixin",
    "TransactionSession",
    "VersionMixin",
    "as_app_error",
    "is_lost",
    "is_refusal",
    "is_repeatable",
    "new_id",
    "outbox_table",
    "row",
    "version_of",
]

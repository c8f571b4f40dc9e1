"""The database: engines, sessions, transactions, tables, migrations."""

from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db._errors import as_app_error, is_repeatable
from backstay.db._session import ReadingSession, TransactionSession
from backstay.db.database import Database, IsolationLevel

__all__ = [
    "AsyncSession",
    "Database",
    "IsolationLevel",
    "ReadingSession",
    "TransactionSession",
    "as_app_error",
    "is_repeatable",
]

"""Questions of backstay's own on a connection that serves somebody else."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

__all__ = ["ask_quietly"]


def ask_quietly(connection: Connection, statement: str) -> Any:
    """Send a statement that nobody counts, times or logs, and return its first row.

    Raises:
        DBAPIError: It failed.
    """
    driver = connection.dialect.loaded_dbapi
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchone()
    except driver.Error as error:
        # What SQLAlchemy would do if it had sent it.
        is_lost = connection.dialect.is_disconnect(error, connection.connection.dbapi_connection, cursor)
        raise DBAPIError.instance(
            statement, None, error, driver.Error, connection_invalidated=is_lost, dialect=connection.dialect
        ) from error
    finally:
        cursor.close()

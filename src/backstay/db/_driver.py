"""asyncpg's connection, with a deadline where it would wait for the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy.util.concurrency import await_

from backstay.db._address import move_options
from backstay.deadline import seconds_left

__all__ = ["connect_postgresql", "ping"]

_CONNECT_SECONDS: Final = 5.0
_LONGEST_TIMEOUT_MS: Final = 2**31 - 1
_GOODBYE_SECONDS: Final = 0.03
"""How long a request whose time is over still waits for the server to end its query: that takes 10 ms, unless
the server is not there any more. It notices by itself that the connection is gone."""


if TYPE_CHECKING:
    _Plain = asyncpg.Connection[asyncpg.Record]
else:
    _Plain = asyncpg.Connection  # only its stubs are generic


class _Connection(_Plain):
    """A connection that passes the deadline on to the server, in the message that begins a transaction."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109
        """Send a query; to BEGIN it adds how long each statement of the transaction may run."""
        if query.startswith("BEGIN") and query.endswith(";"):
            query += _limit_statements()
        return await super().execute(query, *args, timeout=timeout)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Close; SQLAlchemy gives it 2 s, also when what was cancelled has a server that does not answer."""
        left = seconds_left(at_most=timeout)
        await super().close(timeout=None if left is None else max(left, _GOODBYE_SECONDS))


def _limit_statements() -> str:
    left = seconds_left()
    if left is None:
        return ""
    milliseconds = min(max(1, int(left * 1000)), _LONGEST_TIMEOUT_MS)
    return f" SET LOCAL statement_timeout = {milliseconds};"


async def connect_postgresql(*args: Any, **kwargs: Any) -> asyncpg.Connection[Any]:
    """Connect; a server that cannot be reached has a SQLSTATE too, so that nobody guesses from an OSError."""
    timeout = seconds_left(at_most=_CONNECT_SECONDS)
    move_options(kwargs)
    try:
        return await asyncpg.connect(*args, **kwargs, timeout=timeout, connection_class=_Connection)
    except (OSError, TimeoutError) as error:
        raise asyncpg.ClientCannotConnectError(f"The database server cannot be reached: {error}") from error


def ping(connection: Any) -> bool:
    """Ask whether a connection of SQLAlchemy's still has its server, with one message there and back.

    SQLAlchemy would wrap the question into a transaction: three of them before each transaction of ours.
    """
    try:
        await_(connection._connection.execute("SELECT 1"))  # noqa: SLF001  the driver's, inside of it
    except Exception as error:  # noqa: BLE001  translated into what the pool knows
        connection._handle_exception(error)  # noqa: SLF001  as its own ping does
    return True

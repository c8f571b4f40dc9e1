"""Whether a COMMIT that nobody answered has happened, asked of the server when it is back.

Two messages are the price: the number of the transaction before its COMMIT, and the question after it. Only
requests that may run again pay it, as they alone have something to do with the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from time import monotonic
from typing import Final

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db._quiet import ask_quietly
from backstay.deadline import seconds_left
from backstay.transaction import Outcome

__all__ = ["NOTHING_WRITTEN", "find_outcome", "read_number"]

NOTHING_WRITTEN: Final = 0
"""In place of the number of a transaction that has none yet."""

_LONGEST_SEARCH_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.05
_OUTCOMES: Final = {"committed": Outcome.COMMITTED, "aborted": Outcome.ROLLED_BACK}


def read_number(connection: Connection) -> int:
    """Return the server's number of the transaction on a connection of PostgreSQL, or `NOTHING_WRITTEN`."""
    (number,) = ask_quietly(connection, "SELECT pg_current_xact_id_if_assigned()::text")
    return NOTHING_WRITTEN if number is None else int(number)


async def find_outcome(
    number: int, *, open_session: Callable[[], AbstractAsyncContextManager[AsyncSession]]
) -> Outcome:
    """Return how a transaction has ended, as soon as the server says so; `UNKNOWN` when it does not in time.

    Args:
        number: From `read_number`.
        open_session: Opens a session that reads.
    """
    if number == NOTHING_WRITTEN:
        return Outcome.ROLLED_BACK
    ends_at = monotonic() + seconds_left(at_most=_LONGEST_SEARCH_SECONDS)
    question = text(f"SELECT pg_xact_status('{number:d}'::xid8)")
    while monotonic() < ends_at:
        with suppress(SQLAlchemyError):  # it is not back yet
            async with open_session() as session:
                if (outcome := _OUTCOMES.get(await session.scalar(question) or "")) is not None:
                    return outcome
        await asyncio.sleep(_PAUSE_SECONDS)
    return Outcome.UNKNOWN

"""What a handler asks for: sessions, and the markers that a route carries."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from backstay.app.unit_of_work import UnitOfWork
from backstay.db import AsyncSession
from backstay.errors import UsageError

__all__ = ["ReadSessionDep", "SessionDep", "find_unit", "make_repeatable", "repeatable"]


def find_unit(connection: HTTPConnection) -> UnitOfWork:
    """Return the unit of work that a request runs in.

    Raises:
        UsageError: There is none.
    """
    exchange = connection.scope.get("backstay.exchange")
    if exchange is None:
        raise UsageError(
            "SessionDep serves HTTP requests of an app made by `create_app` or `install`; a WebSocket opens "
            "`database.transaction()` for each message that needs one."
        )
    if exchange.unit is None:
        raise UsageError(
            "The service has not started: run its lifespan, as in `with TestClient(app) as client:`."
        )
    unit: UnitOfWork = exchange.unit
    return unit


async def _session(connection: HTTPConnection) -> AsyncSession:
    return find_unit(connection).session(connection.scope)


async def _reading_session(connection: HTTPConnection) -> AsyncSession:
    return find_unit(connection).reading()


async def make_repeatable(connection: HTTPConnection) -> None:
    """Let the request run again when it loses against another one."""
    find_unit(connection).make_repeatable("SERIALIZABLE")


SessionDep = Annotated[AsyncSession, Depends(_session)]
"""A session whose work is committed before a success status leaves, and rolled back on an error or a status
of 400 up.

All dependencies of one request share it. It refuses use once the response begins.
"""

ReadSessionDep = Annotated[AsyncSession, Depends(_reading_session)]
"""A session that only reads: each statement sees the latest commit, and a write is refused."""

repeatable = Depends(make_repeatable)
"""Marks a route, in `dependencies=[repeatable]`, whose whole unit of work may run again.

The transaction is SERIALIZABLE; when PostgreSQL refuses it because of another one (40001, 40P01), the
request runs again from its buffered body, dependencies included, up to `database.repeat_attempts` times.
Mark only routes that change nothing but the database. A body over 1 MiB is not kept, and such a request
runs once.
"""

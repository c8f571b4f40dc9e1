"""Whether PostgreSQL allows as many connections as this service may ask for."""

from __future__ import annotations

import logging
from typing import Final

from backstay.db import Database, as_app_error
from backstay.errors import UnavailableError

__all__ = ["check_connections"]

_logger = logging.getLogger("backstay.app")

_KEPT_FREE: Final = 10
"""For migrations, monitoring, and people who want to see what is wrong."""


async def check_connections(database: Database, *, workers: int) -> None:
    """Warn when all workers together may ask for more connections than the server has.

    It is no reason not to start: pools are seldom full, and what other services and instances take is not
    known here either.
    """
    try:
        allowed = await database.connection_limit()
    except Exception as error:
        if isinstance(as_app_error(error), UnavailableError):
            return  # whether a service may start without its database is not decided here
        raise
    each = sum(pool.limit for pool in database.pools())
    if allowed is None or workers * each <= allowed - _KEPT_FREE:
        return
    _logger.warning(
        "%s of %s connections each may ask PostgreSQL for %s, and it allows %s, of which %s are best kept "
        "free: lower database.pool_size, database.pool_overflow or server.workers, or raise its "
        "max_connections.",
        "1 worker" if workers == 1 else f"{workers} workers",
        each,
        workers * each,
        allowed,
        _KEPT_FREE,
    )

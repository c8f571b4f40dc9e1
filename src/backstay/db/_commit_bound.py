"""How long a COMMIT may keep its participants waiting, enforced by the server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.engine import Connection

from backstay.db._quiet import ask_quietly
from backstay.transaction import Participant

__all__ = ["bound_commit"]


def bound_commit(connection: Connection, participants: Sequence[Participant]) -> None:
    """Make PostgreSQL end this transaction when its COMMIT does not come in time.

    A process that stops after its participants are prepared, and goes on later, would otherwise commit what
    they have given up. It is set late: before, a transaction may wait as long as it likes.
    """
    bounds = [one.commit_bound for one in participants if one.commit_bound is not None]
    if bounds and connection.dialect.name == "postgresql":
        version = connection.dialect.server_version_info or (0,)
        _set_locally(connection, min(bounds), knows_transaction_timeout=version >= (17,))


def _set_locally(connection: Connection, bound: timedelta, *, knows_transaction_timeout: bool) -> None:
    milliseconds = max(1, int(bound.total_seconds() * 1000))
    names = ["idle_in_transaction_session_timeout"]
    if knows_transaction_timeout:
        names.append("transaction_timeout")  # counts from here: it was not running
    settings = ", ".join(f"set_config('{name}', '{milliseconds}', true)" for name in names)
    ask_quietly(connection, f"SELECT {settings}")

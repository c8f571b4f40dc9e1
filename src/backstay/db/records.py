"""The tables of the library itself, and the statements on them.

They are no models: a service gets those that it uses by its own migrations, which `backstay db revision`
writes. What is written to them counts neither as a change of the session nor in `TransactionCommitted`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from backstay.db._errors import LOCK_NOT_AVAILABLE, sqlstate_of
from backstay.db.database import Database
from backstay.db.model import NAMING_CONVENTION
from backstay.db.types import JSON, Integer, String, UTCDateTime
from backstay.errors import ConfigurationError, KeyInUseError, KeyReusedError, UsageError
from backstay.settings import IdempotencySettings

__all__ = [
    "KeyRecords",
    "LibraryTables",
    "RequestKey",
    "StoredResponse",
    "has_table",
    "idempotency_table",
    "require_tables",
]

LibraryTables: TypeAlias = tuple[sa.Table, ...]
"""Those of the library's own tables that a service uses."""

_RECORDS: Final = sa.MetaData(naming_convention=NAMING_CONVENTION)

idempotency_table: Final = sa.Table(
    "backstay_idempotency",
    _RECORDS,
    sa.Column("owner", String(200), primary_key=True),
    sa.Column("method", String(10), primary_key=True),
    sa.Column("route", String(500), primary_key=True),
    sa.Column("key", String(255), primary_key=True),
    sa.Column("fingerprint", String(64), nullable=False),
    sa.Column("status", Integer()),
    sa.Column("headers", JSON()),
    sa.Column("body", sa.LargeBinary()),
    sa.Column("created_at", UTCDateTime(), nullable=False, index=True),
)
"""One row for each idempotency key in use; without a status, its answer is not stored yet."""

_COLUMNS: Final = idempotency_table.c
_PRIMARY_KEY: Final = tuple(idempotency_table.primary_key.columns)
_ATTEMPTS: Final = 3
_SHORTEST_WAIT: Final = timedelta(milliseconds=1)
_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What one effect belongs to: the same key of another owner or for another route is another one."""

    owner: str
    method: str
    route: str
    key: str


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An answer as it is given again."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class KeyRecords:
    """The idempotency keys of one database.

    Args:
        database: Where they are, beside what the requests change.
        settings: How long a request waits for another one with its key, and how long keys are kept.
    """

    def __init__(self, database: Database, settings: IdempotencySettings) -> None:
        self._database = database
        self._keep = settings.keep
        self._wait = _milliseconds(max(settings.wait, _SHORTEST_WAIT))  # zero would wait for ever
        self._lock_timeout = _milliseconds(database.settings.lock_timeout)

    async def claim(
        self, session: AsyncSession, key: RequestKey, *, fingerprint: str
    ) -> StoredResponse | None:
        """Take a key for the session's transaction, or return what it was answered before.

        While another transaction holds the key, this waits for its end. On PostgreSQL that is bounded by
        `idempotency.wait`, on SQLite the transaction began with the lock on the whole database.

        Returns:
            None when the key is the transaction's: it must `store` an answer, or roll back.

        Raises:
            KeyInUseError: The other transaction did not end in time, or has committed without an answer.
            KeyReusedError: The key came with another request.
        """
        for _ in range(_ATTEMPTS):
            if await self._insert(session, key, fingerprint):
                return None
            row = (await session.execute(_FIND, _name(key))).one_or_none()
            if row is not None:  # else it was swept away meanwhile
                return _answer(row, fingerprint)
        raise KeyInUseError

    async def _insert(self, session: AsyncSession, key: RequestKey, fingerprint: str) -> bool:
        values = {**_name(key), "fingerprint_": fingerprint, "created_at_": datetime.now(UTC)}
        if self._database.is_postgresql:
            values |= {"wait": self._wait, "lock_timeout": self._lock_timeout}
        statement = _CLAIM_WAITING if self._database.is_postgresql else _CLAIM
        try:
            return (await session.execute(statement, values)).one_or_none() is not None
        except DBAPIError as error:
            if sqlstate_of(error) == LOCK_NOT_AVAILABLE:
                raise KeyInUseError from error
            raise

    async def store(self, session: AsyncSession, key: RequestKey, response: StoredResponse) -> None:
        """Keep the answer of a request whose key the session's transaction has.

        Raises:
            UsageError: The transaction no longer has the key: the session was rolled back in between.
        """
        values = {
            "status_": response.status,
            "headers_": [list(pair) for pair in response.headers],
            "body_": response.body,
        }
        result: Any = await session.execute(_STORE, _name(key) | values)
        if result.rowcount != 1:
            raise UsageError(
                "The session was rolled back in an idempotent route, and the claim to its key with it: use "
                "`session.begin_nested()` for what may be undone."
            )

    async def sweep(self) -> bool:
        """Delete a batch of the keys that are older than `idempotency.keep`; return whether more may be left.

        Any number of processes may sweep at once: none waits for the rows of another.
        """
        is_old = _COLUMNS.created_at < datetime.now(UTC) - self._keep
        oldest = sa.select(*_PRIMARY_KEY).where(is_old).order_by(_COLUMNS.created_at).limit(_BATCH)
        # As a table expression it runs once, which a subquery with a limit need not.
        batch = oldest.with_for_update(skip_locked=True).cte("batch")
        statement = sa.delete(idempotency_table).where(sa.tuple_(*_PRIMARY_KEY).in_(sa.select(batch)))
        async with self._database.transaction() as session:
            # SQLite counts no rows of a statement that begins with WITH.
            deleted = (await session.execute(statement.returning(_COLUMNS.method))).all()
        return len(deleted) == _BATCH


def _milliseconds(limit: timedelta) -> str:
    return str(round(limit / timedelta(milliseconds=1)))


def _name(key: RequestKey) -> dict[str, Any]:
    return {"owner_": key.owner, "method_": key.method, "route_": key.route, "key_": key.key}


def _answer(row: Any, fingerprint: str) -> StoredResponse:
    if row.fingerprint != fingerprint:
        raise KeyReusedError
    if row.status is None:  # its route commits by itself, and is at work or was cut off
        raise KeyInUseError
    return StoredResponse(row.status, tuple((name, value) for name, value in row.headers), row.body)


# The statements of each request are made once: making them anew costs as much as running them.


def _parameter(name: str) -> sa.BindParameter[Any]:
    # SQLAlchemy keeps the plain name of a column for itself.
    return sa.bindparam(f"{name}_", type_=_COLUMNS[name].type)


def _set_lock_timeout(parameter: str) -> sa.Function[str]:
    limit: sa.BindParameter[str] = sa.bindparam(parameter, type_=sa.String())
    return func.set_config("lock_timeout", limit, sa.true(), type_=sa.String())


def _claim_waiting() -> sa.Executable:
    # The limit for this statement is set and taken back inside of it: round trips of their own would cost as
    # much as the statement. It stays only where there is no new row, in a transaction without work.
    row = sa.select(*map(_parameter, _CLAIMED))
    return (
        postgresql.insert(idempotency_table)
        .from_select(_CLAIMED, row.where(_set_lock_timeout("wait").is_not(None)))
        .on_conflict_do_nothing()
        .returning(_set_lock_timeout("lock_timeout"))
    )


_CLAIMED: Final = ("owner", "method", "route", "key", "fingerprint", "created_at")
_CLAIM_WAITING: Final = _claim_waiting()
_CLAIM: Final = (
    sqlite.insert(idempotency_table)
    .values({name: _parameter(name) for name in _CLAIMED})
    .on_conflict_do_nothing()
    .returning(_COLUMNS.key)
)
_IS_IT: Final = [column == _parameter(column.name) for column in _PRIMARY_KEY]
_FIND: Final[sa.Select[Any]] = sa.select(
    _COLUMNS.fingerprint, _COLUMNS.status, _COLUMNS.headers, _COLUMNS.body
).where(*_IS_IT)
_STORE: Final = (
    sa.update(idempotency_table)
    .where(*_IS_IT)
    .values({name: _parameter(name) for name in ("status", "headers", "body")})
)


async def has_table(database: Database, table: sa.Table) -> bool:
    """Return whether the database has one of the library's tables."""
    return table.name in await _find_names(database)


async def _find_names(database: Database) -> set[str]:
    async with database.read_engine.connect() as connection:
        return set(await connection.run_sync(lambda bound: sa.inspect(bound).get_table_names()))


async def require_tables(database: Database, tables: Iterable[sa.Table]) -> None:
    """Refuse a database that lacks one of the library's tables.

    Raises:
        ConfigurationError: It lacks one.
    """
    present = await _find_names(database)
    for table in tables:
        if table.name not in present:
            raise ConfigurationError(
                f"The database has no table {table.name}, which this service needs.",
                hint=f'Write and run its migration: backstay db revision -m "add {table.name}", then '
                "backstay db upgrade",
            )

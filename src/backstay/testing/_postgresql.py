"""Databases for tests on a PostgreSQL server: each one a copy of a template."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import SecretStr

from backstay.db import Database
from backstay.settings import DatabaseSettings
from backstay.testing._template import Fill

__all__ = ["PostgreSQLDatabases", "check_server"]

_PREFIX = "backstay_test"
_KEPT_SECONDS = 24 * 60 * 60
_FIRST_WITH_STRATEGY = 15


class PostgreSQLDatabases:
    """Databases named `backstay_test_<start of the run>_<run>_<number>`, made and dropped one by one.

    Args:
        server_url: Address of the maintenance database.
    """

    def __init__(self, server_url: str) -> None:
        self._server = Database(_settings(server_url))
        self._run = f"{_PREFIX}_{int(time.time())}_{secrets.token_hex(4)}"
        self._count = 0
        self._names: set[str] = set()
        self._templates: dict[Fill, str] = {}
        self._wanted: Fill | None = None
        self._is_wanted_again = False
        self._spare: str | None = None
        # A DROP waits until every new file of the server is on disk, the copies for other tests too: the
        # cheapest order is create, use, drop, and nothing beside.
        self._one_at_a_time = asyncio.Lock()

    async def create(self, fill: Fill) -> str:
        """Return the address of a new database, copied from one that `fill` has prepared.

        The first call for each `fill` costs a preparation; a copy costs about 10 ms on a server without
        fsync, and 20 to 60 on one with it.
        """
        async with self._one_at_a_time:
            if fill not in self._templates:
                self._templates[fill] = await self._create_template(fill)
            await self._expect(fill)
            name, self._spare = self._spare or await self._copy(fill), None
        return self._url(name)

    async def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected to it; and have the next one ready.

        Tests that take turns on two kinds of database find it there, made while the other kind was used.
        """
        async with self._one_at_a_time:
            await self._drop(url.partition("?")[0].rpartition("/")[2])
            if self._is_wanted_again and self._wanted is not None and self._spare is None:
                self._spare = await self._copy(self._wanted)

    async def _expect(self, fill: Fill) -> None:
        """Note what tests want; what is ready for others is removed."""
        self._is_wanted_again = fill == self._wanted
        self._wanted = fill
        if self._spare is not None and not self._is_wanted_again:
            name, self._spare = self._spare, None
            await self._drop(name)

    async def _copy(self, fill: Fill) -> str:
        return await self._create(f' TEMPLATE "{self._templates[fill]}"{await self._strategy()}')

    async def close(self) -> None:
        """Remove everything that this run made."""
        try:
            for name in sorted(self._names):
                await self._drop(name)
        finally:
            await self._server.close()

    async def sweep(self) -> None:
        """Remove what runs of more than a day ago left behind, unless somebody is connected to it."""
        unused = await self._execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'backstay\\_test\\_%' AND NOT EXISTS "
            "(SELECT FROM pg_stat_activity WHERE pg_stat_activity.datname = pg_database.datname)"
        )
        oldest = time.time() - _KEPT_SECONDS
        for name in unused:
            started_at = name.removeprefix(f"{_PREFIX}_").partition("_")[0]
            if started_at.isdecimal() and int(started_at) < oldest:
                await self._execute(f'DROP DATABASE IF EXISTS "{name}"')

    async def _create_template(self, fill: Fill) -> str:
        name = await self._create("")
        database = Database(_settings(self._url(name)))
        try:
            await fill(database)
        finally:
            await database.close()
        return name

    async def _strategy(self) -> str:
        # Copying files ends in two checkpoints. Where those wait for the disk, logging each page (the default
        # of the server) is faster, the DROP afterwards included.
        version = self._server.engine.dialect.server_version_info or ()
        if version < (_FIRST_WITH_STRATEGY,) or await self._execute("SHOW fsync") == ["on"]:
            return ""
        return " STRATEGY file_copy"

    async def _create(self, options: str) -> str:
        self._count += 1
        name = f"{self._run}_{self._count:05}"
        self._names.add(name)
        await self._execute(f'CREATE DATABASE "{name}"{options}')
        return name

    async def _drop(self, name: str) -> None:
        await self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        self._names.discard(name)

    async def _execute(self, statement: str) -> list[str]:
        engine = self._server.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            result = await connection.exec_driver_sql(statement)
            return list(result.scalars()) if result.returns_rows else []

    def _url(self, name: str) -> str:
        return self._server.url.set(database=name).render_as_string(hide_password=False)


async def check_server(url: str) -> int:
    """Return the major version of a server.

    Raises:
        PermissionError: Databases cannot be created there.
    """
    server = Database(_settings(url))
    try:
        async with server.reading() as session:
            connection = await session.connection()
            rows = await connection.exec_driver_sql(
                "SELECT rolcreatedb OR rolsuper, current_setting('server_version_num')::int / 10000 "
                "FROM pg_roles WHERE rolname = current_user"
            )
            row: Sequence[Any] = rows.one()
    finally:
        await server.close()
    if not row[0]:
        raise PermissionError("this user may not create databases")
    return int(row[1])


def _settings(url: str) -> DatabaseSettings:
    return DatabaseSettings(url=SecretStr(url), lock_timeout=timedelta(seconds=30))

"""Databases for tests, of every kind, made on a thread of the plugin's own."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias, TypeVar

from anyio.from_thread import start_blocking_portal

from backstay.testing._arranging import quietly
from backstay.testing._postgresql import PostgreSQLDatabases, check_server
from backstay.testing._postgresql_server import Missing, find_server
from backstay.testing._sqlite import SQLiteDatabases
from backstay.testing._template import Fill

__all__ = ["DatabaseKind", "DatabaseMaker", "ServerMissingError"]

T = TypeVar("T")

DatabaseKind: TypeAlias = Literal["sqlite", "postgresql"]

_logger = logging.getLogger("backstay.testing")


class ServerMissingError(Exception):
    """There is no server to make a database on."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(f"no PostgreSQL server: {missing.reason}")
        self.is_configured = missing.is_configured


class _Databases(Protocol):
    async def create(self, fill: Fill) -> str: ...
    async def drop(self, url: str) -> None: ...
    async def close(self) -> None: ...


class DatabaseMaker:
    """Makes and removes the databases of one test session.

    It works on a thread with an event loop of its own, so that it serves sync and async tests alike, removes
    while the next test runs, and still cleans up after Ctrl-C.

    Args:
        folder: Holds the SQLite files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._opened: dict[DatabaseKind, _Databases | Missing] = {}
        self._removals: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._portal = self._stack.enter_context(start_blocking_portal(name="backstay-testing"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stack:
            self._await_removals()

    def create(self, kind: DatabaseKind, fill: Fill) -> str:
        """Return the address of a new database.

        Raises:
            ServerMissingError: No server of this kind was found, nor could one be started.
        """
        return self._call(partial(self._databases(kind).create, fill))

    def remove(self, kind: DatabaseKind, url: str) -> None:
        """Remove a database in the background."""
        databases = self._databases(kind)
        self._removals.append(self._portal.start_task_soon(quietly, partial(databases.drop, url)))

    def _databases(self, kind: DatabaseKind) -> _Databases:
        if kind not in self._opened:
            self._opened[kind] = self._open(kind)
        databases = self._opened[kind]
        if isinstance(databases, Missing):
            raise ServerMissingError(databases)
        return databases

    def _open(self, kind: DatabaseKind) -> _Databases | Missing:
        databases = SQLiteDatabases(self._folder) if kind == "sqlite" else self._open_postgresql()
        if not isinstance(databases, Missing):
            self._stack.callback(self._call, databases.close)
        return databases

    def _open_postgresql(self) -> PostgreSQLDatabases | Missing:
        found = find_server(lambda url: self._call(partial(check_server, url)), self._stack)
        if isinstance(found, Missing):
            return found
        databases = PostgreSQLDatabases(found)
        self._call(databases.sweep)
        return databases

    def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        return self._portal.call(quietly, work)

    def _await_removals(self) -> None:
        for removal in self._removals:
            if (error := removal.exception()) is not None:
                _logger.warning("A test's database could not be removed: %s", error)

"""Databases for tests as SQLite files: each one a copy of a template."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import SecretStr

from backstay.db import Database
from backstay.settings import DatabaseSettings
from backstay.testing._template import Fill

__all__ = ["SQLiteDatabases"]

_SCHEME = "sqlite:///"


class SQLiteDatabases:
    """Database files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._templates: dict[Fill, Path] = {}

    async def create(self, fill: Fill) -> str:
        """Return the address of a new database, copied from one that `fill` has prepared."""
        if fill not in self._templates:
            self._templates[fill] = await self._create_template(fill)
        path = self._new_path()
        shutil.copyfile(self._templates[fill], path)
        return _url(path)

    async def drop(self, url: str) -> None:
        """Remove a database."""
        path = url.removeprefix(_SCHEME)
        for suffix in ("", "-wal", "-shm"):
            # The loop is the plugin's own: nobody waits for it.
            Path(path + suffix).unlink(missing_ok=True)  # noqa: ASYNC240

    async def close(self) -> None:
        """Do nothing: pytest keeps the folders of the last runs and removes older ones."""

    async def _create_template(self, fill: Fill) -> Path:
        path = self._new_path()
        path.touch()  # what nobody writes to is still a database to copy
        database = Database(DatabaseSettings(url=SecretStr(_url(path))))
        try:
            await fill(database)
        finally:
            await database.close()  # the last connection moves the write-ahead log into the file
        return path

    def _new_path(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count}.db"


def _url(path: Path) -> str:
    return f"{_SCHEME}{path}"

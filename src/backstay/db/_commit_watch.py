"""Whether somebody else has committed to a SQLite file since the last look."""

from __future__ import annotations

import sqlite3

__all__ = ["CommitWatch"]


class CommitWatch:
    """A private connection that asks the file, for a few microseconds, how often it was changed.

    It sees the commits of every other connection, of other processes and of this one.

    Args:
        path: The database's file.
    """

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._seen = self._look()

    def _look(self) -> int:
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def has_changed(self) -> bool:
        """Return whether there was a commit since the last call."""
        version, self._seen = self._seen, self._look()
        return version != self._seen

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

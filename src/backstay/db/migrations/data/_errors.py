"""What can go wrong with data migrations.

MigrationError
├── BrokenDataMigrationError       a file cannot be read, or does not fit the database
├── DataMigrationBlockedError      a batch met locks, again and again
├── DataMigrationFailedError       a batch raised; it was rolled back
├── DataMigrationRunningError      another process is running it
├── DataMigrationTooEarlyError     the schema migration it builds on has not run
├── DataMigrationUnfinishedError   a schema migration needs it done first
└── UnknownDataMigrationError      no file has that name
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from backstay.db.migrations._errors import MigrationError
from backstay.errors import did_you_mean

__all__ = [
    "BrokenDataMigrationError",
    "DataMigrationBlockedError",
    "DataMigrationFailedError",
    "DataMigrationRunningError",
    "DataMigrationTooEarlyError",
    "DataMigrationUnfinishedError",
    "UnknownDataMigrationError",
]


class BrokenDataMigrationError(MigrationError):
    """A data migration cannot be read, or does not fit the database."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"The data migration {path}, line {line}, cannot run: {reason}", hint="Mend it.")
        self.path = path
        self.line = line


class DataMigrationBlockedError(MigrationError):
    """A batch met the locks of other transactions as often as it was tried, and was rolled back."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"A batch of the data migration {name} met rows that other transactions had locked.",
            hint="Look for long transactions in pg_stat_activity; what was committed is kept, to go on: "
            f"backstay db data run {name}",
        )
        self.name = name


class DataMigrationFailedError(MigrationError):
    """A batch raised and was rolled back; those before it are kept.

    The message names the keys between which the batch lies, and no other value of a row.
    """

    def __init__(self, path: Path, line: int, *, name: str, rows: str, reason: str) -> None:
        super().__init__(
            f"The data migration {path}, line {line}, failed in the batch {rows}: {reason}",
            hint="That batch was rolled back, the ones before it are kept. Mend it, and it goes on there: "
            f"backstay db data run {name}",
        )
        self.path = path
        self.line = line


class DataMigrationRunningError(MigrationError):
    """Another process is running the data migration."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Another process is running the data migration {name}.",
            hint="To see how far it is: backstay db data",
        )
        self.name = name


class DataMigrationTooEarlyError(MigrationError):
    """The schema migration that a data migration builds on has not run."""

    def __init__(self, name: str, after: str) -> None:
        super().__init__(
            f"The data migration {name} builds on the migration {after}, which has not run.",
            hint="Run `backstay db upgrade` first.",
        )
        self.name = name
        self.after = after


class DataMigrationUnfinishedError(MigrationError):
    """A schema migration needs a data migration done first; nothing of it has run."""

    def __init__(self, revision: str, name: str) -> None:
        super().__init__(
            f"The migration {revision} needs the data migration {name}, which is not done.",
            hint=f"Run `backstay db data run {name}`, then `backstay db upgrade` again.",
        )
        self.revision = revision
        self.name = name


class UnknownDataMigrationError(MigrationError):
    """No file has that name."""

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(
            f"There is no data migration {name!r}.{did_you_mean(name, known)}",
            hint="`backstay db data` lists them.",
        )
        self.name = name

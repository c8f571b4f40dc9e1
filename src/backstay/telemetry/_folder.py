"""The folder in which several worker processes count together, and who of them is still alive.

prometheus-client keeps one file of counters per process in it. Those of an ended process count on, which is
right for what it did and wrong for what it is: a dead worker has no requests in flight. Who is dead is asked
of the kernel: each worker holds a lock on a file of its own, which goes with the process however it ends, and
which no other process inherits with the number.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from backstay.errors import ConfigurationError

__all__ = ["FOLDER_VARIABLE", "announce_process", "counting_together", "drop_ended", "list_files"]

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def counting_together() -> Iterator[None]:
    """Let the processes that are started inside the block answer `/metrics` for all of them.

    Takes the folder that PROMETHEUS_MULTIPROC_DIR names and empties it of what ended processes left; without
    the variable, sets it to a new folder, which is removed at the end of the block.

    Raises:
        ConfigurationError: The folder that the variable names cannot be used.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        _empty(Path(given))
        yield
        return
    folder = tempfile.mkdtemp(prefix="backstay-metrics-")
    os.environ[FOLDER_VARIABLE] = folder
    try:
        yield
    finally:
        del os.environ[FOLDER_VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)


def _empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.db"):
            if _has_ended(folder, _process_of(path), unknown=True):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{FOLDER_VARIABLE} names {str(folder)!r}, which cannot be used: {error.strerror}.",
            hint="Name a folder that this user may write to, or remove the variable: one is made then.",
        ) from error


def announce_process(folder: Path) -> None:
    """Let the other processes know that this one lives, until it ends."""
    _hold_lock(folder, os.getpid())


@cache  # a forked process has a number of its own, and asks anew
def _hold_lock(folder: Path, process: int) -> int:
    # A bare descriptor, which nobody closes before the process ends.
    descriptor = os.open(_lock_path(folder, process), os.O_CREAT | os.O_RDWR, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _lock_path(folder: Path, process: int) -> Path:
    return folder / f"{process}.alive"


def _has_ended(folder: Path, process: int, *, unknown: bool = False) -> bool:
    """Return whether a process is gone; `unknown` for one that has never announced itself."""
    try:
        with _lock_path(folder, process).open() as file:
            # Shared: two that look at the same time do not take each other for the process itself.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return unknown
    except BlockingIOError:
        return False
    return True


def _process_of(path: Path) -> int:
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


def drop_ended(folder: Path) -> None:
    """Remove what ended processes left that only tells of living ones; their counts stay."""
    for path in folder.glob("gauge_live*_*.db"):
        if _has_ended(folder, _process_of(path)):
            path.unlink(missing_ok=True)


def list_files(folder: Path) -> list[str]:
    """Return the files to add up, without those of a process that is just making one."""
    return [str(path) for path in folder.glob("*.db") if _has_begun(path)]


def _has_begun(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False

"""Find a PostgreSQL server for the tests, or start one from the binaries of this machine."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["Missing", "find_server"]

_LOCAL = ("127.0.0.1", 5432)
_LOOK_SECONDS = 0.5
_START_SECONDS = 60
_BINARY_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/usr/local/pgsql/bin",
)
# Nothing here has to outlive a power cut: neither the files, which are in memory where there is room, nor a
# commit. A database is 300 files, and on some disks that is a quarter of a second.
_MEMORY = Path("/dev/shm")  # noqa: S108  where Linux has it; the folder in it is private
_ROOM_BYTES = 2 * 1024**3
_UNSAFE_AND_FAST = (
    "-c listen_addresses= -c fsync=off -c full_page_writes=off -c synchronous_commit=off "
    "-c max_wal_size=512MB"
)
# The server must go with this process, whichever way that goes: the shell wakes when its input closes, also
# after kill -9.
_WATCH = 'cat >/dev/null; "$1" -D "$2/data" -m immediate -w stop; rm -rf "$2"'


@dataclass(frozen=True, slots=True)
class Missing:
    """No server was found."""

    reason: str
    is_configured: bool = False
    """Whether an address was given, so that its failure must not pass for absence."""


def find_server(check: Callable[[str], int], stack: ExitStack) -> str | Missing:
    """Return the address of a server's maintenance database.

    Looks at BACKSTAY_TEST_POSTGRES_URL, then at the standard local port. Where the binaries of this machine
    are of the version that answers there, or none does, one is started from them: it need not outlive a power
    cut, so that it makes databases in a fifth of the time and less.

    Args:
        check: Returns the major version of a server, or raises unless databases can be created there.
        stack: Stops what was started.
    """
    if url := os.environ.get("BACKSTAY_TEST_POSTGRES_URL"):
        asked = _ask(check, url)
        if isinstance(asked, Missing):
            return Missing(f"BACKSTAY_TEST_POSTGRES_URL: {asked.reason}", is_configured=True)
        return url
    local = _local_server(check)
    binaries = _binaries()
    if isinstance(local, _Local) and (binaries is None or _version(binaries) != local.version):
        return local.url  # it is the version that the service is made for
    started = _started_server(binaries, check, stack)
    if isinstance(started, str):
        return started
    return local.url if isinstance(local, _Local) else Missing(f"{local.reason}; {started.reason}")


@dataclass(frozen=True, slots=True)
class _Local:
    """A server that is there already."""

    url: str
    version: int


def _ask(check: Callable[[str], int], url: str) -> int | Missing:
    try:
        return check(url)
    except Exception as error:  # noqa: BLE001  whatever it is, it is why this server cannot be used
        return Missing(" ".join(str(error).split())[:200] or type(error).__name__)


def _local_server(check: Callable[[str], int]) -> _Local | Missing:
    host, port = _LOCAL
    try:
        socket.create_connection(_LOCAL, timeout=_LOOK_SECONDS).close()
    except OSError:
        return Missing(f"nothing listens on {host}:{port}")
    failures = {}
    for user in dict.fromkeys(filter(None, (os.environ.get("PGUSER"), "postgres", _current_user()))):
        url = f"postgresql://{quote(user, safe='')}@{host}:{port}/postgres"
        asked = _ask(check, url)
        if isinstance(asked, int):
            return _Local(url, asked)
        failures[user] = asked.reason
    refusals = ", ".join(f"{user} ({failure})" for user, failure in failures.items())
    return Missing(f"{host}:{port} refuses {refusals}")


def _current_user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return None


def _started_server(binaries: Path | None, check: Callable[[str], int], stack: ExitStack) -> str | Missing:
    if binaries is None:
        return Missing("no PostgreSQL binaries (initdb, pg_ctl) on this machine")
    try:
        url = stack.enter_context(_cluster(binaries))
    except (subprocess.SubprocessError, OSError, LookupError) as error:
        output = getattr(error, "stderr", "") or str(error)
        return Missing(f"{binaries} does not start: {' '.join(output.split())[-300:]}")
    asked = _ask(check, url)
    return (
        Missing(f"the server of {binaries} does not answer: {asked.reason}")
        if isinstance(asked, Missing)
        else url
    )


def _binaries() -> Path | None:
    """Return the folder of the newest initdb and pg_ctl."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    for pattern in _BINARY_FOLDERS:
        folders += sorted(Path("/").glob(pattern.lstrip("/")), key=_version, reverse=True)
    return next(
        (folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None
    )


def _version(folder: Path) -> int:
    """Return the major version in a folder's name, `/usr/lib/postgresql/17/bin`; 0 without one."""
    numbers = re.findall(r"\d+", folder.parent.name)
    return int(numbers[0]) if numbers else 0


@contextmanager
def _cluster(binaries: Path) -> Iterator[str]:
    """Run a server that listens on a socket in a private folder only, and is gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="backstay-pg-", dir=_MEMORY if _has_room(_MEMORY) else None))
    user = _unprivileged(folder)
    try:
        _run(
            binaries / "initdb",
            "-D",
            "data",
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
            folder=folder,
            user=user,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    watcher = subprocess.Popen(  # noqa: S603  our own two arguments
        ["/bin/sh", "-c", _WATCH, "sh", str(binaries / "pg_ctl"), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd="/", start_new_session=True, **user,
    )  # fmt: skip
    try:
        _run(
            binaries / "pg_ctl",
            "-D",
            "data",
            "-w",
            "-l",
            "log",
            "-o",
            f"{_UNSAFE_AND_FAST} -k {folder}",
            "start",
            folder=folder,
            user=user,
        )
        yield f"postgresql://postgres@/postgres?host={quote(str(folder), safe='/')}"
    finally:
        watcher.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _has_room(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free >= _ROOM_BYTES
    except OSError:
        return False


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Return who runs the server: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(folder, "postgres", "postgres")
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def _run(program: Path, *arguments: str, folder: Path, user: dict[str, Any]) -> None:
    # A session of its own: the Ctrl-C that stops the tests must not stop the server before them.
    subprocess.run(  # noqa: S603  a program that we found, and our own arguments
        [str(program), *arguments], cwd=folder, check=True, timeout=_START_SECONDS, start_new_session=True,
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **user,
    )  # fmt: skip

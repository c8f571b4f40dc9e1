"""A PostgreSQL of a test's own, which can be restarted and halted without anybody else noticing."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from backstay.testing import _postgresql_server as plugin


class OwnServer:
    """A running server."""

    def __init__(self, url: str, binaries: Path) -> None:
        self.url = url
        self._binaries = binaries
        self._folder = Path(parse_qs(urlsplit(url).query)["host"][0])

    def restart(self) -> None:
        """End all connections at once, stop, and start again."""
        self._control("-m", "fast", "-w", "-l", "log", "restart")

    def stop(self) -> None:
        """End all connections at once, and stop."""
        self._control("-m", "fast", "-w", "stop")

    def start(self) -> None:
        """Start with the options that it had before."""
        options = (self._folder / "data" / "postmaster.opts").read_text().split('"')[1::2]
        self._control("-w", "-l", "log", "-o", " ".join(options), "start")

    def _control(self, *arguments: str) -> None:
        user = plugin._unprivileged(self._folder)
        plugin._run(self._binaries / "pg_ctl", "-D", "data", *arguments, folder=self._folder, user=user)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Stop all its processes where they are: connections stay open, and nobody answers."""
        processes = self._find_processes()
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def _find_processes(self) -> list[int]:
        main = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        stats = Path("/proc").glob("[0-9]*/stat")
        return [main, *(int(stat.parent.name) for stat in stats if _parent(stat) == main)]


def _parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return None


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Start a server for the time of the block; without PostgreSQL's programs the test is skipped."""
    binaries = plugin._binaries()
    if binaries is None or not Path("/proc/self/stat").exists():
        if os.environ.get("BACKSTAY_REQUIRE_SERVERS"):
            pytest.fail("There are no PostgreSQL binaries on this machine.", pytrace=False)
        pytest.skip("needs PostgreSQL binaries (initdb, pg_ctl) and /proc")
    with plugin._cluster(binaries) as url:
        yield OwnServer(url, binaries)

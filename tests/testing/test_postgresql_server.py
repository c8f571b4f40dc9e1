"""A server of the tests' own, from the binaries of the machine: it goes with them, whichever way they go."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote

import pytest
from sqlalchemy import make_url

from backstay.testing import _postgresql_server
from backstay.testing._postgresql_server import Missing, find_server

from .conftest import Project
from .test_databases import ONE_TABLE, ask_server

needs_binaries = pytest.mark.skipif(
    _postgresql_server._binaries() is None, reason="no PostgreSQL binaries on this machine"
)


def accept(url: str) -> int:
    """Find nothing wrong with a server."""
    return 99


def refuse(url: str) -> int:
    raise PermissionError("not you")


@pytest.fixture
def no_local_server(monkeypatch: pytest.MonkeyPatch, free_tcp_port: int) -> None:
    monkeypatch.delenv("BACKSTAY_TEST_POSTGRES_URL", raising=False)
    monkeypatch.setattr(_postgresql_server, "_LOCAL", ("127.0.0.1", free_tcp_port))


@needs_binaries
@pytest.mark.usefixtures("no_local_server")
def test_a_server_is_started_and_goes_with_the_run(project: Project) -> None:
    result = project.test(ONE_TABLE, "-s", "--database", "postgresql")

    result.assert_outcomes(passed=1)
    folder = Path(unquote(result.stdout.str().partition("?host=")[2].splitlines()[0]))
    assert folder.name.startswith("backstay-pg-")
    assert not folder.exists()


SAY = 'print("url", database_url)'
# From the event loop: a signal inside of the test's own code ends anyio's runner before its fixtures.
SAY_LATER = 'asyncio.get_running_loop().call_later(0.05, print, "url", database_url)'
SERVE = """
import sys
from contextlib import ExitStack
from backstay.testing._postgresql_server import _binaries, _started_server
with ExitStack() as stack:
    print(_started_server(_binaries(), lambda url: 15, stack), flush=True)
    sys.stdin.read()
"""


@needs_binaries
def test_it_goes_too_when_the_run_is_killed() -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout
        folder = Path(run.stdout.readline().strip().partition("?host=")[2])
        assert (folder / "data").is_dir()
        run.kill()
    assert _is_gone(folder, within_seconds=10)


def _is_gone(folder: Path, *, within_seconds: float) -> bool:
    # The process that removes it is nobody's child any more: there is nothing to wait for but the folder.
    ends_at = time.monotonic() + within_seconds
    while folder.exists() and time.monotonic() < ends_at:
        time.sleep(0.02)
    return not folder.exists()


def test_a_configured_address_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKSTAY_TEST_POSTGRES_URL", "postgresql://a@b/c")
    with ExitStack() as stack:
        assert find_server(accept, stack) == "postgresql://a@b/c"
        assert find_server(refuse, stack) == Missing(
            "BACKSTAY_TEST_POSTGRES_URL: not you", is_configured=True
        )


def test_a_local_server_is_asked_as_several_users(
    monkeypatch: pytest.MonkeyPatch, listening_port: int
) -> None:
    monkeypatch.delenv("BACKSTAY_TEST_POSTGRES_URL", raising=False)
    monkeypatch.setenv("PGUSER", "ada")
    monkeypatch.setattr(_postgresql_server, "_LOCAL", ("127.0.0.1", listening_port))
    monkeypatch.setattr(_postgresql_server, "_binaries", lambda: None)
    monkeypatch.setattr("getpass.getuser", lambda: "eve")

    def want_eve(url: str) -> int:
        return 15 if "//eve@" in url else refuse(url)

    with ExitStack() as stack:
        assert find_server(want_eve, stack) == f"postgresql://eve@127.0.0.1:{listening_port}/postgres"
        missing = find_server(refuse, stack)
    assert isinstance(missing, Missing)
    assert "ada (not you), postgres (not you), eve (not you)" in missing.reason


class TestTheSameVersion:
    """A server that is there is asked for its version; binaries of the same one start a faster one."""

    @pytest.fixture(autouse=True)
    def _local_server(self, monkeypatch: pytest.MonkeyPatch, listening_port: int) -> None:
        monkeypatch.delenv("BACKSTAY_TEST_POSTGRES_URL", raising=False)
        monkeypatch.setattr(_postgresql_server, "_LOCAL", ("127.0.0.1", listening_port))
        self.local = f"127.0.0.1:{listening_port}"

    def _find(self, version: int) -> str:
        with ExitStack() as stack:
            found = find_server(lambda _: version, stack)
        assert isinstance(found, str)
        return found

    @needs_binaries
    def test_is_started(self) -> None:
        binaries = _postgresql_server._binaries()
        assert binaries is not None
        assert "backstay-pg-" in self._find(_postgresql_server._version(binaries))

    def test_is_the_one_that_is_there_when_binaries_are_older_or_newer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_postgresql_server, "_binaries", lambda: Path("/usr/lib/postgresql/14/bin"))
        assert self.local in self._find(15)

    def test_is_the_one_that_is_there_when_binaries_do_not_work(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(_postgresql_server, "_unprivileged", lambda folder: {})
        monkeypatch.setattr(_postgresql_server, "_binaries", lambda: tmp_path / "15" / "bin")
        assert self.local in self._find(15)


def test_a_user_without_a_name_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", fail)
    assert _postgresql_server._current_user() is None


@pytest.fixture
def listening_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class TestBinaries:
    """Whatever the machine has, a reason is given."""

    def test_those_that_do_not_work_are_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("initdb", "pg_ctl"):
            (tmp_path / name).write_text("#!/bin/sh\necho no disk >&2\nexit 1\n")
            (tmp_path / name).chmod(0o755)
        tmp_path.chmod(0o755)
        monkeypatch.setattr(_postgresql_server, "_unprivileged", lambda folder: {})
        with ExitStack() as stack:
            found = _postgresql_server._started_server(tmp_path, accept, stack)
        assert found == Missing(f"{tmp_path} does not start: no disk")

    @needs_binaries
    def test_a_server_that_does_not_answer_is_named(self) -> None:
        with ExitStack() as stack:
            found = _postgresql_server._started_server(_postgresql_server._binaries(), refuse, stack)
        assert isinstance(found, Missing)
        assert "does not answer: not you" in found.reason

    def test_the_newest_comes_first(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("shutil.which", lambda name: None)
        monkeypatch.setattr(_postgresql_server, "_BINARY_FOLDERS", (f"{tmp_path}/*/bin",))
        for version in ("9", "16", "15"):
            folder = tmp_path / version / "bin"
            folder.mkdir(parents=True)
            (folder / "initdb").touch()
            (folder / "pg_ctl").touch()
        assert _postgresql_server._binaries() == tmp_path / "16" / "bin"

    @needs_binaries
    @pytest.mark.parametrize("has_room", [True, False])
    def test_its_files_are_in_memory_where_there_is_room(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_room: bool
    ) -> None:
        for folder in (tmp_path, *tmp_path.parents[:-2]):  # for the user who runs it
            folder.chmod(0o755)
        monkeypatch.setattr(_postgresql_server, "_MEMORY", tmp_path)
        monkeypatch.setattr(_postgresql_server, "_ROOM_BYTES", 1 if has_room else 2**62)
        with ExitStack() as stack:
            found = _postgresql_server._started_server(_postgresql_server._binaries(), accept, stack)
            assert isinstance(found, str)
            assert (str(tmp_path) in unquote(found)) is has_room

    def test_without_such_a_folder_they_are_on_the_disk(self, tmp_path: Path) -> None:
        assert not _postgresql_server._has_room(tmp_path / "shm")

    def test_a_user_other_than_root_runs_it_as_itself(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        assert _postgresql_server._unprivileged(tmp_path) == {}


@pytest.mark.databases("postgresql")
def test_ctrl_c_leaves_nothing_behind(
    project: Project, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKSTAY_TEST_POSTGRES_URL", database_url)
    project.write(
        test_inner=ONE_TABLE.replace(SAY, f"import asyncio\n    {SAY_LATER}\n    await asyncio.sleep(60)")
    )
    command = [sys.executable, "-u", "-m", "pytest", "-s", "--database", "postgresql"]
    with project.pytester.popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        line = next(line for line in run.stdout if "url postgresql" in line)
        run.send_signal(signal.SIGINT)
        output = run.stdout.read()
    assert run.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "Error" not in output.replace("KeyboardInterrupt", "")
    name = make_url(line.split()[-1]).database
    assert name is not None
    run_name = name.rpartition("_")[0]
    assert not [one for one in ask_server(database_url) if one.startswith(run_name)]


@pytest.mark.databases("postgresql")
def test_workers_of_xdist_keep_apart_and_count(
    project: Project, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKSTAY_REQUIRE_SERVERS", "1")
    project.write(
        test_inner=ONE_TABLE.replace(
            "async def test_it(", "@pytest.mark.parametrize('n', range(4))\nasync def test_it(n, "
        )
    )
    result = project.pytester.runpytest_subprocess(
        "-n", "2", "--database", "both", "-p", "xdist", "-W", "error"
    )
    result.assert_outcomes(passed=8)
    assert result.ret == pytest.ExitCode.OK

"""Whose counts are whose, where several processes count together."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backstay.errors import ConfigurationError
from backstay.telemetry._folder import (
    FOLDER_VARIABLE,
    announce_process,
    counting_together,
    drop_ended,
    list_files,
)

_WORKER = """
import sys
from pathlib import Path
from backstay.telemetry._folder import announce_process
announce_process(Path(sys.argv[1]))
print("announced", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has announced itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "announced\n"
    yield process
    process.kill()
    process.communicate()


def leave_files(folder: Path, process: int) -> list[str]:
    for name in ("gauge_livesum", "gauge_livemax", "gauge_all", "counter", "histogram"):
        (folder / f"{name}_{process}.db").write_bytes(b"\0" * 16)
    return files_of(folder)


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.db"))


def test_the_gauges_of_a_living_process_stay(tmp_path: Path, worker: subprocess.Popen[str]) -> None:
    left = leave_files(tmp_path, worker.pid)
    drop_ended(tmp_path)
    assert files_of(tmp_path) == left


def test_a_killed_process_keeps_its_counts_and_loses_its_gauges(
    tmp_path: Path, worker: subprocess.Popen[str]
) -> None:
    leave_files(tmp_path, worker.pid)
    worker.kill()
    worker.wait()

    drop_ended(tmp_path)

    assert files_of(tmp_path) == [
        f"counter_{worker.pid}.db",
        f"gauge_all_{worker.pid}.db",
        f"histogram_{worker.pid}.db",
    ]


def test_another_process_with_the_number_of_a_dead_one_does_not_revive_it(tmp_path: Path) -> None:
    """Where only the number is looked at, the dead worker's gauges count for as long as the other lives."""
    number = os.getppid()
    os.kill(number, 0)  # it lives
    leave_files(tmp_path, number)
    (tmp_path / f"{number}.alive").touch()

    drop_ended(tmp_path)

    assert f"gauge_livesum_{number}.db" not in files_of(tmp_path)


def test_this_process_is_alive_to_itself(tmp_path: Path) -> None:
    announce_process(tmp_path)
    announce_process(tmp_path)
    left = leave_files(tmp_path, os.getpid())

    drop_ended(tmp_path)

    assert files_of(tmp_path) == left


def test_a_file_that_is_just_being_made_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").touch()
    (tmp_path / "counter_2.db").write_bytes(b"\0" * 8)
    assert list_files(tmp_path) == [str(tmp_path / "counter_2.db")]


def test_a_folder_is_made_for_the_block_and_removed_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)

    with counting_together():
        folder = Path(os.environ[FOLDER_VARIABLE])
        leave_files(folder, 1)

    assert not folder.exists()
    assert FOLDER_VARIABLE not in os.environ


def test_a_folder_of_the_users_own_is_emptied_of_what_ended_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: subprocess.Popen[str]
) -> None:
    leave_files(tmp_path, 1)
    living = [name for name in leave_files(tmp_path, worker.pid) if f"_{worker.pid}.db" in name]
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))

    with counting_together():
        assert files_of(tmp_path) == living

    assert tmp_path.exists()
    worker.send_signal(signal.SIGTERM)


def test_a_folder_of_the_users_own_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "run" / "metrics"))
    with counting_together():
        assert (tmp_path / "run" / "metrics").is_dir()


def test_a_folder_that_cannot_be_used_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file"))

    with pytest.raises(ConfigurationError) as caught, counting_together():
        raise AssertionError

    assert str(caught.value).startswith(
        f"{FOLDER_VARIABLE} names '{tmp_path / 'file'}', which cannot be used"
    )

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import pytest

HEAVY = ("fastapi", "starlette", "sqlalchemy", "alembic", "uvicorn", "copier", "rich", "pydantic")


def test_help_lists_every_command(backstay: Any) -> None:
    outcome = backstay("--help")

    assert outcome.code == 0
    for command in ("new", "dev", "run", "db", "explain"):
        assert f"\n  {command} " in outcome.out
    assert outcome.err == ""


def test_help_imports_nothing_that_only_commands_need() -> None:
    script = (
        "import sys; from backstay.cli import main; main(['--help']); "
        f"sys.exit(str([name for name in {HEAVY} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.stderr == "[]\n"


@pytest.mark.parametrize("arguments", [(), ("db",)])
def test_no_command_shows_the_help_as_talk(backstay: Any, arguments: tuple[str, ...]) -> None:
    outcome = backstay(*arguments)

    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("Usage: backstay")


def test_version(backstay: Any) -> None:
    outcome = backstay("--version")

    assert (outcome.code, outcome.out) == (0, f"backstay {version('backstay')}\n")


def test_the_module_is_the_same_command(backstay_process: Any) -> None:
    outcome = backstay_process("--version")

    assert (outcome.code, outcome.out) == (0, f"backstay {version('backstay')}\n")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["rn"], "No such command 'rn'. Did you mean 'run'?", "backstay --help"),
        (["xyzzy"], "No such command 'xyzzy'.", "backstay --help"),
        (["db", "upgrad"], "No such command 'upgrad'. Did you mean 'upgrade'?", "backstay db --help"),
        (["dev", "--prt", "1"], "No such option: --prt. Did you mean '--port'?", "backstay dev --help"),
        (["run", "--xyzzy"], "No such option: --xyzzy.", "backstay run --help"),
        (["run", "--port"], "Option '--port' requires an argument.", "backstay --help"),
        (["new"], "Missing argument 'folder'.", "backstay new --help"),
        (["db", "revision"], "Missing option '--message' / '-m'.", "backstay db revision --help"),
        (["explain", "this"], "Got unexpected extra argument(s) (this).", "backstay explain --help"),
        (
            ["db", "downgrade", "--bse"],
            "Invalid value for 'revision': --bse is neither an option nor a revision.",
            "backstay db downgrade --help",
        ),
    ],
)
def test_misuse_is_told_in_one_line_with_a_hint(
    backstay: Any, arguments: list[str], error: str, hint: str
) -> None:
    outcome = backstay(*arguments)

    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err == f"error: {error}\nhint: {hint}\n"


@pytest.mark.parametrize("port", ["many", "70000", "-1"])
@pytest.mark.parametrize("command", ["dev", "run"])
def test_a_port_that_is_none_is_misuse(backstay: Any, command: str, port: str) -> None:
    outcome = backstay(command, "--port", port)

    assert outcome.code == 2
    assert "error: Invalid value for '--port':" in outcome.err
    assert f"hint: backstay {command} --help" in outcome.err


def test_workers_are_at_least_one(backstay: Any) -> None:
    outcome = backstay("run", "--workers", "0")

    assert outcome.code == 2
    assert "error: Invalid value for '--workers':" in outcome.err


def test_ctrl_c_is_quiet(backstay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("backstay.cli.explain.explain", interrupted)

    outcome = backstay("explain")

    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")


def test_a_reader_that_goes_away_is_met_with_silence(project: Any) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "backstay", "explain"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, talk = process.communicate(timeout=60)

    assert (process.returncode, talk) == (141, b"")


def test_a_process_without_an_output_is_no_reason_to_fail() -> None:
    command = ["sh", "-c", 'exec "$0" -m backstay --version >&-', sys.executable]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "backstay", "--help"], stdout=full, stderr=subprocess.PIPE, check=False
        )

    assert (done.returncode, done.stderr) == (
        1,
        b"error: The output cannot be written: No space left on device.\n",
    )

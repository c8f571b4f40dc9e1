"""`backstay keys`: the file with the keys that sign access tokens."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backstay.security.key_file import KeyFile, read_key_ring, write_key_ring
from backstay.security.keys import DEFAULT_OVERLAP, KeyRing, generate_key, rotate
from backstay.security.opening import open_key_ring
from backstay.settings import Settings

from .conftest import Outcome, TinyProject

Backstay = Callable[..., Outcome]
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def members() -> list[dict[str, object]]:
    keys: list[dict[str, object]] = json.loads(Path("keys.json").read_text())["keys"]
    return keys


@pytest.mark.parametrize("algorithm", [None, "ES256", "RS256", "HS256"])
def test_a_key_is_written_that_production_takes(backstay: Backstay, algorithm: str | None) -> None:
    options = () if algorithm is None else ("--algorithm", algorithm)
    outcome = backstay("keys", "generate", "keys.json", *options)

    assert (outcome.code, outcome.out) == (0, "")
    (key,) = KeyFile(Path("keys.json"), is_production=True).ring().keys
    assert key.algorithm == (algorithm or "EdDSA")
    assert outcome.err == (
        f"Wrote keys.json with the key {key.key_id} for {key.algorithm}. Nobody but you can read it.\n"
    )
    assert Path("keys.json").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_stays(backstay: Backstay) -> None:
    backstay("keys", "generate", "keys.json")
    before = Path("keys.json").read_bytes()
    outcome = backstay("keys", "generate", "keys.json")

    assert outcome.code == 1
    assert outcome.err.startswith("error: keys.json is there already")
    assert "hint: To add a key: backstay keys rotate keys.json" in outcome.err
    assert Path("keys.json").read_bytes() == before


def test_a_folder_that_is_not_there_is_told(backstay: Backstay) -> None:
    outcome = backstay("keys", "generate", "secrets/keys.json")
    assert (outcome.code, outcome.err) == (
        1,
        "error: There is no folder secrets.\nhint: mkdir -p secrets, then the same command again.\n",
    )


def test_a_rotation_adds_a_key_that_signs_later(backstay: Backstay) -> None:
    backstay("keys", "generate", "keys.json")
    outcome = backstay("keys", "rotate", "keys.json")

    old, new = read_key_ring(Path("keys.json").read_bytes()).keys
    assert (outcome.code, outcome.out) == (0, "")
    assert re.fullmatch(rf"Added the key {new.key_id} for EdDSA\. It signs from {TIME}\.\n", outcome.err)
    assert abs(new.signs_from - datetime.now(UTC) - DEFAULT_OVERLAP) < timedelta(seconds=30)
    assert old.verifies_until is not None
    assert Path("keys.json").stat().st_mode & 0o777 == 0o600


def test_a_rotation_takes_its_overlap_and_algorithm_from_the_command(backstay: Backstay) -> None:
    backstay("keys", "generate", "keys.json")
    assert backstay("keys", "rotate", "keys.json", "--overlap", "1d", "--algorithm", "ES256").code == 0

    new = read_key_ring(Path("keys.json").read_bytes()).keys[1]
    assert new.algorithm == "ES256"
    assert new.signs_from - datetime.now(UTC) > timedelta(hours=23)


def test_an_overlap_that_is_too_short_changes_nothing(backstay: Backstay) -> None:
    backstay("keys", "generate", "keys.json")
    before = Path("keys.json").read_bytes()

    for overlap in ("19m", "0s"):
        outcome = backstay("keys", "rotate", "keys.json", "--overlap", overlap)
        assert (outcome.code, outcome.err.startswith("error: An overlap of")) == (1, True)
    assert backstay("keys", "rotate", "keys.json", "--overlap", "soon").code == 2
    assert Path("keys.json").read_bytes() == before


def test_the_list_shows_states_and_times_and_nothing_that_signs(backstay: Backstay) -> None:
    now = datetime.now(UTC)
    over = replace(
        generate_key("ES256", signs_from=now - timedelta(days=9)), verifies_until=now - timedelta(days=1)
    )
    ring = KeyRing((generate_key("EdDSA", signs_from=now - timedelta(days=8)),))
    ring = rotate(rotate(ring, now=now - timedelta(minutes=30)), now=now, algorithm="HS256")
    write_key_ring(KeyRing((over, *ring.keys)), Path("keys.json"))

    outcome = backstay("keys", "list", "keys.json")

    lines = [line.split("  ") for line in outcome.out.splitlines()]
    assert [line[0] for line in lines] == [over.key_id, *(key.key_id for key in ring.keys)]
    assert [line[1] for line in lines] == ["ES256", "EdDSA", "EdDSA", "HS256"]
    states = [
        rf"is over since {TIME}",
        rf"verifies until {TIME}",
        rf"signs since {TIME}, verifies until {TIME}",
        rf"signs from {TIME}",
    ]
    for line, state in zip(lines, states, strict=True):
        assert re.fullmatch(state, line[2])
    for key in members():
        for name in ("d", "k", "x", "y"):
            assert str(key.get(name, "-absent-")) not in outcome.out + outcome.err


def test_keys_of_development_are_told_apart(backstay: Backstay) -> None:
    write_key_ring(KeyRing((generate_key("EdDSA"),), is_development=True), Path("keys.json"))
    assert "production refuses them" in backstay("keys", "list", "keys.json").err


@pytest.mark.parametrize("command", ["rotate", "list"])
def test_a_file_that_is_none_is_told(backstay: Backstay, command: str) -> None:
    outcome = backstay("keys", command, "keys.json")
    assert outcome.err.startswith("error: keys.json cannot be read: No such file")
    assert "hint: To make it: backstay keys generate keys.json" in outcome.err

    Path("keys.json").write_text("{}")
    assert backstay("keys", command, "keys.json").err.startswith("error: A key in keys.json cannot be used")


@pytest.mark.usefixtures("project")
def test_without_a_file_and_a_setting_the_setting_is_named(backstay: Backstay) -> None:
    outcome = backstay("keys", "generate")

    assert outcome.code == 1
    assert outcome.err == (
        "error: Nobody says which file the keys are in.\n"
        "hint: Name it behind the command, or set TINY_SECURITY__KEY_FILE=keys.json\n"
    )


def test_where_and_which_algorithm_come_from_the_settings(
    backstay: Backstay, project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder / "src")
    monkeypatch.setenv("TINY_SECURITY__KEY_FILE", "keys.json")
    monkeypatch.setenv("TINY_SECURITY__ALGORITHM", "ES256")

    assert backstay("keys", "generate").code == 0
    assert backstay("keys", "rotate").code == 0
    assert [line.split()[1] for line in backstay("keys", "list").out.splitlines()] == ["ES256", "ES256"]
    assert (project.folder / "keys.json").exists()


@pytest.mark.usefixtures("project")
def test_development_lists_and_rotates_the_keys_that_it_made(backstay: Backstay) -> None:
    (key,) = open_key_ring(Settings(_env_file=None))().keys

    assert backstay("keys", "rotate").code == 0
    assert backstay("keys", "list").out.splitlines()[0].startswith(f"{key.key_id}  EdDSA  signs since")


def test_the_commands_of_the_guide_do_what_it_says(backstay: Backstay, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/keys.md").read_text()
    lines = [
        line.partition("#")[0].split()
        for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
        for line in block.splitlines()
    ]
    ran: list[str] = []
    ring: Callable[[], KeyRing] | None = None
    for command, *arguments in lines:
        if command == "backstay":
            assert backstay(*arguments).code == 0
            ran.append(arguments[1])
        elif command == "mv":
            ring = KeyFile(Path("keys.json"), is_production=True, clock=lambda: 3.0 * len(ran)).ring
            stolen = [key.key_id for key in ring().keys]
            Path(arguments[0]).rename(arguments[1])

    assert ran == ["generate", "rotate", "list", "generate"]
    assert ring is not None
    assert [ring().find(key_id, datetime.now(UTC)) for key_id in stolen] == [None, None]


def test_the_group_alone_shows_its_help(backstay: Backstay) -> None:
    outcome = backstay("keys")
    assert outcome.code == 2
    for command in ("generate", "rotate", "list"):
        assert command in outcome.err

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest

from backstay.cli.new import create_service
from backstay.errors import ConfigurationError

Backstay = Callable[..., Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_writes_a_service_and_says_how_to_start_it(folder: Path, backstay: Backstay) -> None:
    outcome = backstay("new", "shop")

    assert (outcome.code, outcome.out) == (0, "shop\n")
    assert "cd shop\n  backstay dev\n" in outcome.err
    assert (folder / "shop/src/shop/main.py").is_file()


def test_only_the_service_is_left(folder: Path) -> None:
    create_service(folder / "shop")

    assert list(folder.iterdir()) == [folder / "shop"]
    assert not [path for path in folder.rglob("*") if path.name in {"copier.yml", "__pycache__"}]
    assert not list(folder.rglob("*.jinja"))


def test_its_folder_is_as_open_as_any_other(folder: Path) -> None:
    (folder / "other").mkdir()

    assert create_service(folder / "shop").stat().st_mode == (folder / "other").stat().st_mode


def test_missing_folders_above_are_made(folder: Path, backstay: Backstay) -> None:
    assert backstay("new", "build/examples/shop").code == 0
    assert (folder / "build/examples/shop/pyproject.toml").is_file()


def test_dashes_become_underscores_where_python_wants_them(folder: Path) -> None:
    create_service(folder / "my-shop")

    project = (folder / "my-shop/pyproject.toml").read_text()
    assert 'name = "my-shop"' in project
    assert 'app = "my_shop.main:app"' in project
    assert "# MY_SHOP_NAME=my-shop" in (folder / "my-shop/.env.example").read_text()
    assert "from my_shop import products, users" in (folder / "my-shop/src/my_shop/main.py").read_text()


def test_the_name_may_differ_from_the_folder(folder: Path) -> None:
    create_service(folder / "2026", name="shop")

    assert (folder / "2026/src/shop").is_dir()


def test_an_empty_folder_is_filled(folder: Path, backstay: Backstay) -> None:
    (folder / "shop").mkdir()

    assert backstay("new", "shop").code == 0


def test_what_is_there_stays_as_it_is(folder: Path, backstay: Backstay) -> None:
    (folder / "shop").mkdir()
    (folder / "shop/README.md").write_text("mine")
    before = read_files(folder)
    outcome = backstay("new", "shop")

    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {folder}/shop exists already, and stays as it is.\nhint: ")
    assert read_files(folder) == before


@pytest.mark.parametrize("target", ["a-file", "."])
def test_no_file_and_no_current_folder_is_replaced(
    folder: Path, backstay: Backstay, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (folder / "a-file").touch()
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder if target == "a-file" else folder / "inside")

    assert "exists already" in backstay("new", target).err


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("My Shop", "my-shop"),
        ("2shop", "shop"),
        ("shop_", "shop"),
        ("läden", "l-den"),
        ("s" * 41, "s" * 40),
        ("42", "shop"),
    ],
)
def test_a_name_that_no_package_can_have_is_refused(backstay: Backstay, name: str, suggestion: str) -> None:
    outcome = backstay("new", name)

    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {name!r} cannot name a service")
    assert outcome.err.endswith(f"backstay new {suggestion}\n")


@pytest.mark.parametrize("name", ["class", "json", "test", "backstay", "typing-extensions", "tests"])
def test_a_name_that_hides_another_module_is_refused(backstay: Backstay, name: str) -> None:
    outcome = backstay("new", name)

    assert outcome.code == 1
    assert "cannot name a service" in outcome.err
    assert "hint: Take another name: backstay new " in outcome.err


def test_a_folder_on_the_path_is_not_taken_for_a_module(
    folder: Path, backstay: Backstay, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "shop").mkdir()
    monkeypatch.syspath_prepend(folder)

    assert backstay("new", "shop").code == 0


def test_a_folder_below_a_file_is_refused(folder: Path, backstay: Backstay) -> None:
    (folder / "a-file").touch()
    outcome = backstay("new", "a-file/shop")

    assert outcome.code == 1
    assert "cannot be written" in outcome.err
    assert "hint: " in outcome.err


def test_a_disk_that_takes_no_more_leaves_nothing_behind(folder: Path) -> None:
    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    outcome = subprocess.run(
        [sys.executable, "-B", "-m", "backstay", "new", "build/shop"],
        preexec_fn=limit_files,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert outcome.returncode == 1
    assert "error: The service cannot be written to" in outcome.stderr
    assert "file too large" in outcome.stderr
    assert list(folder.iterdir()) == []


def test_an_interruption_leaves_nothing_behind(
    folder: Path, backstay: Backstay, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = copier.run_copy

    def interrupted(*args: Any, **options: Any) -> None:
        render(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(copier, "run_copy", interrupted)

    assert backstay("new", "shop").code == 130
    assert list(folder.iterdir()) == []


def test_what_appears_meanwhile_is_not_overwritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render = copier.run_copy

    def overtaken(*args: Any, **options: Any) -> None:
        render(*args, **options)
        (folder / "shop").mkdir()
        (folder / "shop/README.md").write_text("mine")

    monkeypatch.setattr(copier, "run_copy", overtaken)

    with pytest.raises(ConfigurationError, match="directory not empty"):
        create_service(folder / "shop")
    assert read_files(folder) == {folder / "shop/README.md": b"mine"}


def test_it_needs_neither_git_nor_the_users_copier_settings(folder: Path) -> None:
    (folder / "settings.yml").write_text("defaults:\n  name: other\n  package: other\n")
    environment = {"PATH": "", "COPIER_SETTINGS_PATH": str(folder / "settings.yml"), "HOME": str(folder)}
    command = [sys.executable, "-m", "backstay", "new", "shop"]
    outcome = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=os.fspath(folder)
    )

    assert (outcome.returncode, outcome.stdout) == (0, "shop\n")
    assert (folder / "shop/src/shop").is_dir()

import sys
from pathlib import Path
from typing import Any

import pytest

from backstay.cli.project import enter_project


def test_the_app_is_found_from_a_subfolder_which_the_command_leaves(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.main.parent)

    outcome = backstay("explain")

    assert outcome.code == 0
    assert f"SQLite file {project.folder}/service.db" in outcome.out


def test_the_option_names_another_app(project: Any, backstay: Any) -> None:
    other = project.main.with_name("other.py")
    other.write_text(project.main.read_text().replace('"tiny"', '"other"').replace("app = ", "service = "))

    outcome = backstay("explain", "--app", f"{project.package}.other:service")

    assert outcome.code == 0
    assert outcome.out.splitlines()[0].split()[:2] == ["name", "other"]


def test_the_option_needs_no_project(project: Any, backstay: Any) -> None:
    project.pyproject.unlink()

    outcome = backstay("explain", "--app", f"{project.package}.main:app")

    assert outcome.code == 0


def test_code_beside_pyproject_is_found_too(project: Any, backstay: Any) -> None:
    project.main.rename(project.folder / f"{project.package}_flat.py")
    project.name_app(f"{project.package}_flat:app")

    assert enter_project(None).source_folder == project.folder / "src"
    assert backstay("explain").code == 0
    assert sys.path[0] == str(project.folder)


def test_a_project_without_src_is_watched_as_a_whole(project: Any) -> None:
    (project.folder / "src").rename(project.folder / "code")

    assert enter_project(None).source_folder == project.folder


def test_no_pyproject(tmp_path: Path, backstay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    outcome = backstay("explain")

    assert outcome.code == 1
    assert outcome.err == (
        "error: There is no pyproject.toml here or in a folder above.\n"
        "hint: Change to your service's folder, or make a service: backstay new shop\n"
    )


@pytest.mark.parametrize(
    ("content", "error", "hint"),
    [
        ("[project]\n", "has no table [tool.backstay].", "Add [tool.backstay] with app = "),
        ("tool = 1\n", "has no table [tool.backstay].", "Add [tool.backstay] with app = "),
        (
            "[tool.backstay]\nap = 'a:b'\n",
            "does not say what the app is.",
            "Add the line app =",
        ),
        ("[tool]\nbackstay = 1\n", "does not say what the app is.", "Add the line app ="),
        ("[tool.backstay\n", "is not valid TOML: ", "Correct the file."),
        ("[tool.backstay]\napp = 1\n", "is 1, which is not of the form module:attribute.", "shop.main:app"),
        ("[tool.backstay]\napp = 'shop.main'\n", "'shop.main', which is not of the form", "shop.main:app"),
        ("[tool.backstay]\napp = 'shop/main.py:app'\n", "which is not of the form", "shop.main:app"),
    ],
)
def test_a_pyproject_that_names_no_app(
    project: Any, backstay: Any, content: str, error: str, hint: str
) -> None:
    project.pyproject.write_text(content)

    outcome = backstay("explain")

    assert outcome.code == 1
    told, hinted = outcome.err.splitlines()
    assert told.startswith("error: ")
    assert error in told
    assert hinted.startswith("hint: ")
    assert hint in hinted


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("{}.mian:app", "but there is no module {}.mian. Did you mean 'main'?"),
        ("nowhere_at_all.main:app", "but there is no module nowhere_at_all."),
        ("{}x.main:app", "but there is no module {}x. Did you mean '{}'?"),
        ("{}.main:ap", "but there is no ap. Did you mean 'app'?"),
        ("{}.main:xyzzy", "but there is no xyzzy."),
    ],
)
def test_an_app_that_is_not_there(project: Any, backstay: Any, reference: str, error: str) -> None:
    project.name_app(reference.replace("{}", project.package))

    outcome = backstay("explain")

    assert outcome.code == 1
    assert outcome.err.splitlines() == [
        f"error: The app is said to be {reference}, {error}".replace("{}", project.package),
        "hint: Correct app in [tool.backstay] of pyproject.toml, or what you passed as --app.",
    ]


@pytest.mark.parametrize(
    ("code", "error", "hint"),
    [
        (
            "from fastapi import FastAPI\napp = FastAPI()\n",
            "is a FastAPI without backstay.",
            "backstay.create_app(",
        ),
        ("def app(): ...\n", "is a function, not an app.", "app = create_app(...)"),
        ("class app: ...\n", "is a type, not an app.", "app = create_app(...)"),
        ("app = 7\n", "is a int without backstay.", "backstay.install("),
    ],
)
def test_an_app_that_is_not_one_of_ours(
    project: Any, backstay: Any, code: str, error: str, hint: str
) -> None:
    project.main.write_text(code)

    outcome = backstay("explain")

    assert outcome.code == 1
    told, hinted = outcome.err.splitlines()
    assert told == f"error: {project.package}.main:app {error}"
    assert hint in hinted


def test_a_wrong_setting_is_told_without_a_traceback(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_SERVER__PORT", "many")

    outcome = backstay("explain", "--traceback")

    assert outcome.code == 1
    assert outcome.err.startswith("error: TINY_SERVER__PORT")
    assert "\nhint: " in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("code", "error", "hint"),
    [
        (
            "x = 1\nx.nothing\n",
            "AttributeError: 'int' object has no attribute 'nothing' (in src/{}/main.py, line 2)",
            "--traceback shows the whole way there.",
        ),
        (
            "raise RuntimeError\n",
            "RuntimeError (in src/{}/main.py, line 1)",
            "--traceback shows the whole way there.",
        ),
        (
            "app = (\n",
            "SyntaxError: '(' was never closed (in src/{}/main.py, line 1)",
            "--traceback shows the whole way there.",
        ),
        (
            "import nowhere_at_all\n",
            "ModuleNotFoundError: No module named 'nowhere_at_all' (in src/{}/main.py, line 1)",
            "Install what provides nowhere_at_all, and add it to the dependencies in pyproject.toml.",
        ),
        (
            "import json\njson.loads('{')\n",
            "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) "
            "(in src/{}/main.py, line 2)",
            "--traceback shows the whole way there.",
        ),
    ],
)
def test_code_that_raises_is_told_with_its_place(
    project: Any, backstay: Any, code: str, error: str, hint: str
) -> None:
    project.main.write_text(code)

    outcome = backstay("explain")

    assert outcome.code == 1
    assert outcome.err == f"error: {error}\nhint: {hint}\n".replace("{}", project.package)


def test_the_traceback_comes_on_demand(project: Any, backstay: Any) -> None:
    project.main.write_text("raise RuntimeError('no')\n")

    outcome = backstay("explain", "--traceback")

    lines = outcome.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == f"error: RuntimeError: no (in src/{project.package}/main.py, line 1)"

import json
from typing import Any

import pytest


@pytest.fixture
def deployed(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service with nothing to find."""
    (project.folder / "uv.lock").touch()
    monkeypatch.setenv("TINY_ENVIRONMENT", "production")
    monkeypatch.setenv("TINY_DATABASE__URL", "sqlite:////srv/tiny.db")
    monkeypatch.setenv("TINY_HTTP__ALLOWED_HOSTS", "tiny.example")
    return project


@pytest.mark.usefixtures("project")
def test_an_app_that_can_be_made_can_be_served(backstay: Any) -> None:
    outcome = backstay("check")

    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.endswith("can be served. Before it faces the world: backstay check --deploy\n")


def test_an_app_that_cannot_be_made_fails(project: Any, backstay: Any) -> None:
    project.main.write_text(project.main.read_text().replace("routers=[router]", "routers=[routr]"))

    assert backstay("check").code == 1


@pytest.mark.usefixtures("deployed")
def test_what_is_ready_passes(backstay: Any) -> None:
    outcome = backstay("check", "--deploy")

    assert (outcome.code, outcome.out) == (0, "")
    assert "of 1" in outcome.err


@pytest.mark.usefixtures("deployed")
def test_what_is_found_fails_and_says_what_to_do(backstay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_HTTP__DOCS", "true")

    outcome = backstay("check", "--deploy")

    assert outcome.code == 1
    assert outcome.out == (
        "S24: The documentation and the OpenAPI document are served to everyone.\n"
        "hint: Set TINY_HTTP__DOCS=false, unless the API is meant for everyone.\n"
    )


@pytest.mark.usefixtures("deployed")
def test_a_check_can_be_left_out(backstay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_HTTP__DOCS", "true")

    assert backstay("check", "--deploy", "--ignore", "S24").code == 0
    assert "No check is called 'S0'" in backstay("check", "--deploy", "--ignore", "S0").err


@pytest.mark.usefixtures("deployed")
def test_machines_get_all_checks(backstay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_HTTP__DOCS", "true")

    outcome = backstay("check", "--deploy", "--json")
    checks = {check["row"]: check for check in json.loads(outcome.out)["checks"]}

    assert outcome.code == 1
    assert len(checks["S24"]["findings"]) == 1
    assert checks["S43"] == {
        "row": "S43",
        "claim": "Every dependency is pinned with its hash.",
        "findings": [],
    }

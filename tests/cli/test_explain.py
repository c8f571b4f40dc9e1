import json
import re
import sys
from typing import Any

import pytest


def test_every_setting_has_its_value_variable_and_origin(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_SERVER__PORT", "9001")
    (project.folder / ".env").write_text("TINY_LOGGING__LEVEL=debug\n")

    rows = [line.split() for line in backstay("explain").out.partition("\n\n")[0].splitlines()]

    assert ["server.port", "9001", "TINY_SERVER__PORT", "environment"] in rows
    assert ["logging.level", "DEBUG", "TINY_LOGGING__LEVEL", ".env"] in rows
    assert ["server.workers", "1", "TINY_SERVER__WORKERS", "default"] in rows
    assert ["http.cors_origins", "empty", "TINY_HTTP__CORS_ORIGINS", "default"] in rows


def test_secrets_are_masked(project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", "postgresql://shop:hunter2@localhost/shop")

    for arguments in ([], ["--json"]):
        outcome = backstay("explain", *arguments)
        assert outcome.code == 0
        assert "hunter2" not in outcome.out + outcome.err
        assert "@localhost/shop" in outcome.out


def test_every_part_says_why(project: Any, backstay: Any) -> None:
    parts = backstay("explain").out.partition("\n\n")[2].splitlines()

    assert "CORS: off, because TINY_HTTP__CORS_ORIGINS is not set" in parts
    assert "documentation: on, because TINY_HTTP__DOCS is not set and the environment is development" in parts
    assert "security headers: on, because create_app() made the app" in parts


def test_an_app_that_only_installs_keeps_its_answers(project: Any, backstay: Any) -> None:
    project.main.write_text(
        "from backstay import Settings, install\nfrom fastapi import FastAPI\n"
        "app = FastAPI()\ninstall(app, Settings())\n"
    )

    outcome = backstay("explain")

    assert (
        "problem documents: off, because install() changes no answer of an existing app; create_app() has it"
        in outcome.out.splitlines()
    )


def test_machines_get_json(project: Any, backstay: Any) -> None:
    document = json.loads(backstay("explain", "--json").out)

    assert document["app"] == f"{project.package}.main:app"
    assert {
        "name": "server.port",
        "variable": "TINY_SERVER__PORT",
        "value": "8000",
        "source": "default",
        "description": "The port to listen on; 0 for any free one.",
    } in document["settings"]
    assert {
        "name": "CORS",
        "is_on": False,
        "state": "off",
        "reason": "TINY_HTTP__CORS_ORIGINS is not set",
        "setting": "http.cors_origins",
    } in document["parts"]


def test_who_may_call_each_route_is_listed(project: Any, backstay: Any) -> None:
    project.main.write_text(
        "from backstay import Settings, create_app, guarded_by, public\n"
        "app = create_app(Settings(), public_paths=['/plain'])\n"
        "app.get('/open', dependencies=[public])(lambda: None)\n"
        "def signed(): ...\n"
        "app.post('/hook', dependencies=[guarded_by(signed)])(lambda: None)\n"
        "app.add_route('/plain', lambda request: None)\n"
        "app.get('/silent')(lambda: None)\n"
    )

    lines = backstay("explain").out.splitlines()
    document = json.loads(backstay("explain", "--json").out)

    assert lines[-4:] == [
        "GET /open is for everybody",
        "POST /hook is for whom signed admits",
        "GET /plain is for everybody",
        "GET /silent does not say for whom",
    ]
    assert document["policies"][0] == {
        "route": "GET /open",
        "admits": "everybody",
        "contradicts": None,
        "place": f"{project.main.relative_to(project.folder)}:3",
    }


def test_the_limits_of_routes_are_listed(project: Any, backstay: Any) -> None:
    project.main.write_text(
        "from backstay import Settings, create_app, rate_limit\n"
        "app = create_app(Settings())\n"
        "limits = [rate_limit('login:{ip}', limit=5, per='15m'), rate_limit('all', limit=9, per='1s', "
        "when_unavailable='open')]\n"
        "app.post('/login', dependencies=limits)(lambda: None)\n"
    )

    lines = backstay("explain").out.splitlines()
    document = json.loads(backstay("explain", "--json").out)

    assert lines[-2:] == [
        "limit on POST /login: login:{ip}, 5 in 900 s; counted by each process while Redis is away",
        "limit on POST /login: all, 9 in 1 s; open while Redis is away",
    ]
    assert document["limits"][0] == {
        "route": "POST /login",
        "template": "login:{ip}",
        "limit": 5,
        "per_seconds": 900,
        "when_unavailable": "local",
    }


def test_nothing_is_coloured_in_a_pipe(project: Any, backstay_process: Any) -> None:
    assert "\x1b" not in backstay_process("explain").out


def test_a_wide_terminal_gets_a_table_with_titles(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_terminal(monkeypatch, columns=140)

    lines = _without_styles(backstay("explain").out).splitlines()

    assert lines[0].split() == ["setting", "value", "variable", "origin"]
    assert any("server.port" in line and "TINY_SERVER__PORT" in line for line in lines)


def test_a_narrow_terminal_gets_one_block_per_setting(
    project: Any, backstay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_terminal(monkeypatch, columns=60)

    lines = _without_styles(backstay("explain").out).splitlines()

    position = next(number for number, line in enumerate(lines) if "server.port = 8000" in line)
    assert "TINY_SERVER__PORT, default" in lines[position + 1]


def _without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def _pretend_terminal(monkeypatch: pytest.MonkeyPatch, *, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

"""What the guide says about settings is so, and its examples leave the time that they speak of."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from backstay.app.stopping import drain_time
from backstay.settings import HttpSettings, ServerSettings, Settings

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "deploying.md").read_text()
SECTIONS: dict[str, type[BaseModel]] = {"server": ServerSettings, "http": HttpSettings}
ROWS = re.findall(r"^\| `(server|http)\.(\w+)` \| `(\w+)`", GUIDE, re.MULTILINE)


@pytest.mark.parametrize(("section", "name", "default"), [row for row in ROWS if row[1] != "drain"])
def test_the_defaults_in_the_tables_are_those_of_the_settings(section: str, name: str, default: str) -> None:
    settings: Any = SECTIONS[section]()

    assert getattr(settings, name) == getattr(SECTIONS[section](**{name: default}), name)


def test_the_tables_name_enough_settings_to_be_looked_at() -> None:
    assert len(ROWS) > 9


def test_whoever_stops_the_process_in_the_examples_waits_long_enough() -> None:
    production = Settings.model_construct(environment="production", server=ServerSettings())
    needed = drain_time(production) + production.server.grace
    waits = re.findall(r"(?:terminationGracePeriodSeconds: |TimeoutStopSec=|stop_grace_period: )(\d+)", GUIDE)

    assert len(waits) == 3
    assert all(timedelta(seconds=int(wait)) >= needed + timedelta(seconds=5) for wait in waits)


def test_the_template_waits_long_enough_too() -> None:
    compose = Path(__file__).parents[2] / "src/backstay/templates/service/compose.yaml.jinja"
    (wait,) = re.findall(r"stop_grace_period: (\d+)s", compose.read_text())
    period, failures = re.findall(r"periodSeconds: (\d+), failureThreshold: (\d+)", GUIDE)[0]

    assert int(wait) >= 45
    assert drain_time(
        Settings.model_construct(environment="production", server=ServerSettings())
    ) >= timedelta(seconds=2 * int(period) * int(failures))

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from backstay.logging import configure_logging, get_logger
from backstay.settings import LoggingSettings

if TYPE_CHECKING:
    from tests.logging.conftest import Lines

logger = get_logger("shop")


def test_nothing_happens_on_import() -> None:
    program = (
        "import logging, warnings; before = warnings.showwarning; import backstay.logging, structlog;"
        "assert not logging.root.handlers and logging.root.level == logging.WARNING;"
        "assert warnings.showwarning is before and not structlog.is_configured()"
    )

    subprocess.run([sys.executable, "-c", program], check=True)


def test_configuring_again_replaces_everything(lines: Lines) -> None:
    for _ in range(3):
        configure_logging(LoggingSettings(level="WARNING", format="json"), stream=lines)

    logger.info("suppressed")
    logging.getLogger("theirs").info("suppressed")
    logger.warning("ours")
    logging.getLogger("theirs").warning("theirs")

    assert [event["event"] for event in lines.read_events()] == ["ours", "theirs"]


def test_lines_are_json_where_nobody_reads_along(lines: Lines) -> None:
    configure_logging(LoggingSettings(), stream=lines)

    logger.info("order accepted")

    assert lines.read_event()["event"] == "order accepted"


@pytest.mark.parametrize(
    ("log_format", "production", "is_json"),
    [("auto", False, False), ("auto", True, True), ("json", False, True), ("console", True, False)],
)
def test_a_terminal_gets_json_only_in_production_or_on_request(
    log_format: str, production: bool, is_json: bool
) -> None:
    line = log_to_terminal(LoggingSettings.model_validate({"format": log_format}), production=production)

    assert line.startswith("{") == is_json
    if is_json:
        assert json.loads(line)["event"] == "order accepted"


@pytest.mark.parametrize(
    ("variable", "value", "is_colored"),
    [("TERM", "xterm", True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)],
)
def test_a_terminal_gets_colors_unless_it_asks_for_none(
    variable: str, value: str, is_colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, value)

    assert ("\x1b[" in log_to_terminal(LoggingSettings())) == is_colored


def log_to_terminal(settings: LoggingSettings, *, production: bool = False) -> str:
    reading, writing = pty.openpty()
    with os.fdopen(reading, "rb", buffering=0) as screen, os.fdopen(writing, "w") as terminal:
        configure_logging(settings, production=production, stream=terminal)
        logger.info("order accepted", order_id=7)
        return screen.read(4096).decode()

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from backstay.logging import clear_context, configure_logging
from backstay.settings import LoggingSettings


class Lines(io.BytesIO):
    """A stream that knows what was logged to it."""

    def read_text(self) -> str:
        return self.getvalue().decode()

    def read_events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read_text().splitlines()]

    def read_event(self) -> dict[str, Any]:
        (event,) = self.read_events()
        return event


@pytest.fixture
def lines() -> Lines:
    """Lines in JSON, everything from DEBUG on."""
    stream = Lines()
    configure_logging(LoggingSettings(level="DEBUG"), production=True, stream=stream)
    return stream


@pytest.fixture
def console() -> Lines:
    """Lines for a person, without colours."""
    stream = Lines()
    configure_logging(LoggingSettings(level="DEBUG", format="console"), stream=stream)
    return stream


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Give the process back unconfigured; pytest's own handlers stay."""
    root = logging.getLogger()
    before, level = [*root.handlers], root.level
    yield
    for handler in [*root.handlers]:
        if type(handler).__module__.startswith("backstay") and handler not in before:
            root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    logging.getLogger("uvicorn.access").disabled = False
    if structlog.is_configured():
        # The list is ours: without steps a logger is as it was before the first configuration.
        structlog.get_config()["processors"].clear()
        structlog.reset_defaults()
    clear_context()

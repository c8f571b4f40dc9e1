import io
import json
from typing import Any

import pytest

from backstay.logging import configure_logging
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

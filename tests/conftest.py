"""What all tests share: backstay's own plugin, as a service uses it."""

import logging
from collections.abc import Iterator

import pytest
import structlog

# Imported here, before pytester's inner runs: they forget the modules that they import, and Alembic's `op`
# would lose its other half.
import backstay.db.migrations._environment  # noqa: F401
from backstay.logging import clear_context

pytest_plugins = ["backstay.testing", "pytester"]

_SERVERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Give the process back unconfigured; pytest's own handlers stay."""
    root = logging.getLogger()
    before, level = [*root.handlers], root.level
    servers = [logging.getLogger(name) for name in _SERVERS]
    states = [(logger.level, logger.propagate, logger.disabled) for logger in servers]
    yield
    for handler in [*root.handlers]:
        if type(handler).__module__.startswith("backstay") and handler not in before:
            root.removeHandler(handler)
    root.setLevel(level)
    for logger, state in zip(servers, states, strict=True):
        logger.level, logger.propagate, logger.disabled = state
        logger.manager._clear_cache()  # type: ignore[attr-defined]  # what setLevel does
    logging.captureWarnings(capture=False)
    if structlog.is_configured():
        # The list is ours: without steps a logger is as it was before the first configuration.
        structlog.get_config()["processors"].clear()
        structlog.reset_defaults()
    clear_context()

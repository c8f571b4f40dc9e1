"""What all tests share: backstay's own plugin, as a service uses it."""

import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

# Imported here, before pytester's inner runs: they forget the modules that they import, and Alembic's `op`
# would lose its other half.
import backstay.db.migrations._environment
from backstay.logging import clear_context

pytest_plugins = ["backstay.testing", "pytester"]

# Tests write modules, import them and write them anew: bytecode of the same second and size would be used.
sys.dont_write_bytecode = True

_LIBRARY = str(Path(backstay.__file__).parent)
_unpickled: list[str] = []


def _notice_pickles(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        stack = [frame.filename for frame in traceback.extract_stack()]
        if any(name.startswith(_LIBRARY) for name in stack):
            _unpickled.append(f"{arguments} by way of {stack}")


sys.addaudithook(_notice_pickles)


@pytest.fixture(autouse=True)
def unpickled() -> Iterator[list[str]]:
    """Fail the test in which the library, or what it calls, makes objects of a pickle in this process."""
    _unpickled.clear()
    yield _unpickled
    assert _unpickled == []


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

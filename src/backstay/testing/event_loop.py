"""Async tests and fixtures: run by anyio's plugin, on the event loop that the service uses."""

from __future__ import annotations

import pytest

__all__: list[str] = []


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load anyio's plugin where plugins are not found by themselves (PYTEST_DISABLE_PLUGIN_AUTOLOAD)."""
    if not pluginmanager.has_plugin("anyio"):
        pluginmanager.import_plugin("anyio.pytest_plugin")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let a plain `async def test_...` be a test; `--anyio-mode strict` asks for marks again."""
    if config.getoption("anyio_mode") is None:
        config.option.anyio_mode = "auto"


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Return what async tests run on: asyncio with uvloop, one loop for fixtures of every scope."""
    return "asyncio", {"use_uvloop": True}

"""The project whose tests run: its app and its settings."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backstay.db.records import LibraryTables
from backstay.errors import ConfigurationError
from backstay.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from backstay.app.installation import Installation

__all__ = ["app_address", "find_installation", "load_app", "project_settings", "project_tables"]


def app_address(config: pytest.Config) -> str | None:
    """Return where the app is, such as `shop.main:app`; None when the project names none.

    The option `backstay_app` of pytest wins over `app` in the table `[tool.backstay]` of pyproject.toml.
    """
    return config.getini("backstay_app") or _read_address(config.rootpath / "pyproject.toml")


def _read_address(path: Path) -> str | None:
    if not path.is_file():
        return None
    table = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("backstay", {})
    address = table.get("app")
    return address if isinstance(address, str) else None


def load_app(config: pytest.Config) -> FastAPI:
    """Import the project's app.

    Raises:
        ConfigurationError: The project names none, or there is none at that place.
    """
    address = app_address(config)
    if address is None:
        raise ConfigurationError(
            'No app to test: name it in pyproject.toml, as in [tool.backstay] app = "shop.main:app", '
            "or override the fixture `app`."
        )
    module, _, name = address.partition(":")
    app: FastAPI | None = getattr(importlib.import_module(module), name or "app", None)
    if app is None:
        raise ConfigurationError(
            f"There is no app at {address!r}, which pyproject.toml or `backstay_app` names."
        )
    return app


def find_installation(app: FastAPI) -> Installation:
    """Return what `create_app` or `install` left on the app.

    Raises:
        ConfigurationError: Neither was called.
    """
    installation: Installation | None = getattr(getattr(app, "state", None), "backstay", None)
    if installation is None:
        raise ConfigurationError(
            "The app under test was made without backstay: use `create_app`, or `install` it."
        )
    return installation


def project_tables(config: pytest.Config) -> LibraryTables:
    """Return those of the library's own tables that the project's app uses."""
    return () if app_address(config) is None else find_installation(load_app(config)).library_tables


def project_settings(config: pytest.Config) -> Settings:
    """Return the settings of the project's app, or the standard ones, with the environment "test"."""
    if app_address(config) is None:
        return Settings(environment="test")
    settings = find_installation(load_app(config)).settings
    return settings.model_copy(update={"environment": "test"})

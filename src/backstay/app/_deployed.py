"""What the checks of a deployment look at, and what they find."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from backstay.app.explanation import variable_name
from backstay.settings import Settings

__all__ = ["Finding", "Service"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should not be deployed.

    Attributes:
        message: What is so, in one sentence.
        hint: What to do about it.
    """

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Service:
    """What is to be deployed.

    Attributes:
        app: With its routes.
        settings: What it was made with.
        folder: Where its pyproject.toml is.
        has_policy: Whether `create_app` made it; `install` leaves the answers of an app as they are.
    """

    app: FastAPI
    settings: Settings
    folder: Path
    has_policy: bool

    def variable(self, setting: str) -> str:
        """Return the environment variable of a setting: `SHOP_HTTP__DOCS` for `http.docs`."""
        return variable_name(self.settings, setting)

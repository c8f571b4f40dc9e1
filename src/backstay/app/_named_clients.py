"""The clients that routes ask for, and whether the settings name them.

Without HTTPX, which takes long to import: an app that calls nobody comes by here, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts

from backstay.app.runtime import current_runtime
from backstay.errors import ConfigurationError, did_you_mean
from backstay.settings import Settings

if TYPE_CHECKING:
    from backstay.clients import AsyncClient

__all__ = ["NamedClient", "check_clients"]


class NamedClient:
    """What a route depends on to get a client."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self) -> AsyncClient:
        """Return the client of the running service."""
        return current_runtime().client(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedClient) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def check_clients(app: FastAPI, settings: Settings) -> None:
    """Refuse a route that asks for a client that the settings do not name.

    Raises:
        ConfigurationError: There is one.
    """
    for route, name in _list_uses(app):
        if name not in settings.clients:
            prefix = str(settings.model_config.get("env_prefix", "")).upper()
            variable = f"{prefix}CLIENTS__{name.upper()}__BASE_URL"
            raise ConfigurationError(
                f"{route} asks for the client {name!r}, which no setting names."
                f"{did_you_mean(name, settings.clients)}",
                hint=f"Set {variable}, or give `clients` of the settings class a default.",
            )


def _list_uses(app: FastAPI) -> Iterator[tuple[str, str]]:
    for context in iter_route_contexts(list(app.routes)):
        if isinstance(context.original_route, APIRoute | APIWebSocketRoute):
            methods = ",".join(sorted(context.methods or ())) or "WebSocket"
            for name in _list_names(context.dependant):
                yield f"{methods} {context.path_format or ''}", name


def _list_names(dependant: Dependant) -> Iterator[str]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, NamedClient):
            yield inner.call.name
        yield from _list_names(inner)

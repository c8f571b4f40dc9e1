"""The service of `identity_service`, started for each test."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import MetaData

from backstay.db import Database
from backstay.settings import Settings
from identity_service import IdentityBase, Member, Members, add_member, make_service, secured


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return IdentityBase.metadata


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return secured(settings)


@pytest.fixture
def members() -> Members:
    return Members()


@pytest.fixture
def app(settings: Settings, members: Members) -> FastAPI:
    return make_service(settings, members, api_keys=True)


@pytest.fixture
def register(app: FastAPI, client: AsyncClient, database: Database) -> Callable[..., Awaitable[Member]]:
    """Adds a member with a password."""

    async def add(email: str = "ada@example.org", **values: Any) -> Member:
        return await add_member(database, app.state.backstay.identity.passwords, email, **values)

    return add


@pytest.fixture
def ask_socket() -> Callable[..., Awaitable[list[str]]]:
    """Opens a WebSocket straight into an app, and returns what comes: texts, and other messages by kind."""

    async def ask(app: FastAPI, path: str, headers: dict[str, str]) -> list[str]:
        came: list[str] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            came.append(message.get("text") or message["type"])

        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "subprotocols": [],
            "state": {},
        }
        await app(scope, receive, send)
        return came

    return ask

"""A caller that sees more than a client does: it is there when the response starts."""

import asyncio
import json as standard_json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from fastapi import FastAPI


@dataclass
class Answer:
    """What came back, message by message."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return standard_json.loads(self.body)


class Ask(Protocol):
    """Sends one request straight into an ASGI app."""

    async def __call__(
        self,
        app: FastAPI,
        method: str,
        path: str,
        *,
        json: object = None,
        headers: dict[str, str] | None = None,
        at_start: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer: ...


@pytest.fixture
def ask() -> Ask:
    return _ask


async def _ask(
    app: FastAPI,
    method: str,
    path: str,
    *,
    json: object = None,
    headers: dict[str, str] | None = None,
    at_start: Callable[[], Awaitable[None]] | None = None,
) -> Answer:
    answer = Answer()
    content = b"" if json is None else standard_json.dumps(json).encode()
    given = {"host": "testserver", "content-type": "application/json", **(headers or {})}

    unread = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not unread:
            await asyncio.Event().wait()  # the caller stays and waits for the answer
        return unread.pop()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            if at_start is not None:
                await at_start()
        else:
            answer.body += message.get("body", b"")

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
        "state": {},
    }
    await app(scope, receive, send)
    return answer


@pytest.fixture
def running() -> Callable[[FastAPI], Any]:
    """A context in which an app's lifespan runs."""

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[FastAPI]:
        async with app.router.lifespan_context(app):
            yield app

    return run

"""A service's first requests import nothing: what they need is there when it says that it is ready."""

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import asyncio
import sys

from fastapi import APIRouter

from backstay import SessionDep, Settings, create_app, public
from backstay.app.schemas import InputSchema


class Thing(InputSchema):
    name: str


router = APIRouter()


@router.get("/thread")
def read_in_a_thread() -> int:
    return 1


@router.post("/things")
async def create(thing: Thing, session: SessionDep) -> Thing:
    return thing


app = create_app(Settings(name="tiny", environment="development"), routers=[router], dependencies=[public])


async def ask(method, path, body=b""):
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"tiny"), (b"content-type", b"application/json")],
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"]


async def main():
    async with app.router.lifespan_context(app):
        loaded = set(sys.modules)
        answers = [
            await ask("GET", "/thread"),
            await ask("POST", "/things", b'{"name": "a"}'),
            await ask("POST", "/things", b"{"),
            await ask("GET", "/readyz"),
            await ask("GET", "/docs"),
        ]
        print(answers, sorted(set(sys.modules) - loaded))


asyncio.run(main())
"""


def test_what_it_needs_is_imported_before_it_is_ready(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert run.stdout.splitlines()[-1:] == ["[200, 200, 400, 200, 200] []"], run.stderr

"""One of the processes of test_idempotency.py: it charges, answers, and dies where it is told to.

`python charging_worker.py URL marked|unmarked POINT`; the keys to charge come in as one line of JSON, each
answer goes out as one line.
"""

import asyncio
import json
import os
import signal
import sys
from datetime import timedelta
from uuid import UUID, uuid4

from fastapi import APIRouter
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from sqlalchemy import Column, MetaData, String, Table, event, insert

from backstay import SessionDep, after_commit, create_app, idempotent, public
from backstay.db.records import idempotency_table
from backstay.settings import (
    DatabaseSettings,
    IdempotencySettings,
    LoggingSettings,
    Settings,
    TelemetrySettings,
)

POINTS = ("after the effect", "before the commit", "after the commit")
CALLERS = 8
PATIENCE = timedelta(seconds=60)

tables = MetaData()
charges = Table("charges", tables, Column("id", String, primary_key=True), Column("key", String))
idempotency_table.to_metadata(tables)


def make_router(*, is_marked: bool, point: str) -> APIRouter:
    """Return the route, which dies at a point when it has one."""
    router = APIRouter(dependencies=[idempotent()] if is_marked else [])
    count = 0

    @router.post("/charges/{key}", status_code=201)
    async def charge(key: str, session: SessionDep) -> UUID:
        nonlocal count
        count += 1
        new = uuid4()
        await session.execute(insert(charges).values(id=new.hex, key=key))
        if count == 1:
            die_at(point, session)
        return new

    return router


def die_at(point: str, session: SessionDep) -> None:
    """See to it that the process dies; nothing can be done about a SIGKILL."""
    if point == "after the effect":
        die()
    elif point == "before the commit":
        event.listen(session.sync_session, "before_commit", die)
    elif point == "after the commit":
        after_commit(session, die)


def die(*_: object) -> None:
    """Die without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def make_settings(url: str) -> Settings:
    """Return settings with which nobody is turned away for having waited."""
    return Settings(
        environment="test",
        database=DatabaseSettings(
            url=SecretStr(url), pool_size=CALLERS, pool_timeout=PATIENCE, busy_timeout=PATIENCE
        ),
        idempotency=IdempotencySettings(wait=PATIENCE),
        logging=LoggingSettings(access=False),
        telemetry=TelemetrySettings(slow_query=timedelta(0)),
    )


async def main(url: str, marked: str, point: str) -> None:
    """Charge each key once, by several callers at once."""
    app = create_app(
        make_settings(url),
        routers=[make_router(is_marked=marked == "marked", point=point)],
        dependencies=[public],
    )
    transport = ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://worker") as client,
        asyncio.TaskGroup() as callers,
    ):
        tell("ready")
        keys: list[str] = json.loads(await asyncio.to_thread(sys.stdin.readline))
        keys.reverse()
        for _ in range(CALLERS):
            callers.create_task(call(client, keys))


async def call(client: AsyncClient, keys: list[str]) -> None:
    """Charge keys until none is left, and tell each answer."""
    while keys:
        key = keys.pop()
        answer = await client.post(f"/charges/{key}", headers={"Idempotency-Key": key})
        is_replayed = "Idempotency-Replayed" in answer.headers
        tell(json.dumps([key, answer.status_code, answer.text, is_replayed]))


def tell(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

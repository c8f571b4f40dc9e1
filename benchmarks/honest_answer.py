"""An honest answer: read back, over a second connection, what a 2xx has just promised.

    python benchmarks/honest_answer.py               the app of create_app
    python benchmarks/honest_answer.py --plain       a plain FastAPI app with the usual yield dependency
    python benchmarks/honest_answer.py --count 1000 --url postgresql://...

A real Uvicorn serves real sockets in a process of its own. The caller writes a row, and as soon as the
status line of a 2xx has arrived it asks the database itself for that row. Exit code 1 when one was missing.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from backstay import Database, SessionDep, create_app, public
from backstay.settings import DatabaseSettings, Settings

metadata = sa.MetaData()
receipts = sa.Table("honest_receipts", metadata, sa.Column("id", sa.Uuid, primary_key=True))


def our_app(url: str) -> FastAPI:
    """The route under test on `create_app`."""
    router = APIRouter()

    @router.post("/receipts/{receipt_id}", status_code=201)
    async def write(receipt_id: UUID, session: SessionDep) -> bool:
        await session.execute(sa.insert(receipts).values(id=receipt_id))
        return True

    return create_app(_settings(url), routers=[router], dependencies=[public])


def plain_app(url: str) -> FastAPI:
    """The same route, wired as most projects wire it."""
    backend = url.replace("postgresql:", "postgresql+asyncpg:").replace("sqlite:", "sqlite+aiosqlite:")
    maker = async_sessionmaker(create_async_engine(backend))
    app = FastAPI()

    async def usual_session() -> AsyncIterator[AsyncSession]:
        async with maker() as session:
            yield session
            await session.commit()

    @app.post("/receipts/{receipt_id}", status_code=201)
    async def write(receipt_id: UUID, session: Annotated[AsyncSession, Depends(usual_session)]) -> bool:
        await session.execute(sa.insert(receipts).values(id=receipt_id))
        return True

    return app


def _settings(url: str) -> Settings:
    return Settings(environment="test", database=DatabaseSettings(url=SecretStr(url)))


async def measure(url: str, *, count: int, plain: bool, callers: int = 4) -> tuple[int, int]:
    """Return how many 2xx answers were given and how many of their rows were missing right after."""
    database = Database(DatabaseSettings(url=SecretStr(url)))
    async with database.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    try:
        async with _served(url, plain=plain) as port:
            results = await asyncio.gather(*(_call(port, database, count // callers) for _ in range(callers)))
    finally:
        async with database.engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)
        await database.close()
    return sum(answers for answers, _ in results), sum(missing for _, missing in results)


async def _call(port: int, database: Database, count: int) -> tuple[int, int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = missing = 0
    async with database.read_engine.connect() as connection:
        for _ in range(count):
            receipt_id = uuid4()
            request = f"POST /receipts/{receipt_id} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            writer.write(request.encode())
            status = int((await reader.readline()).split()[1])
            if 200 <= status < 300:
                answers += 1
                found = await connection.scalar(sa.select(receipts.c.id).where(receipts.c.id == receipt_id))
                missing += found is None
            await _read_rest(reader)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answers, missing


async def _read_rest(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.split(b":")[1]))


@contextlib.asynccontextmanager
async def _served(url: str, *, plain: bool) -> AsyncIterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        sys.executable,
        __file__,
        "--serve",
        str(port),
        "--url",
        url,
        *(["--plain"] if plain else []),
    ]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.DEVNULL)
    try:
        await _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def _wait_for(port: int, process: Any) -> None:
    for _ in range(200):
        if process.returncode is not None:
            raise SystemExit(f"The server ended with code {process.returncode}.")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit("The server did not start within 10 s.")


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--url", help="a database to write to; a temporary SQLite file when absent")
    parser.add_argument("--plain", action="store_true", help="serve plain FastAPI instead")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        import uvicorn

        app = (plain_app if given.plain else our_app)(given.url)
        uvicorn.run(app, port=given.serve, log_level="warning", access_log=False)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'honest.db'}"
        answers, missing = asyncio.run(measure(url, count=given.count, plain=given.plain))
    name = "a plain FastAPI app" if given.plain else "backstay"
    print(
        f"An honest answer: {missing} of {answers} read-backs right after a 2xx of {name} missed the write."
    )
    return 1 if missing or not answers else 0


if __name__ == "__main__":
    sys.exit(main())

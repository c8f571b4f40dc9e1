"""A small service for others to call, which answers, hangs and fails as a test tells it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Call:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> bytes:
    """Return an answer as it goes over the wire."""
    lines = [f"HTTP/1.1 {status} Some Words", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Upstream:
    """A running server; `respond` decides what it says, and hangs as long as it does."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    connections: int = 0

    async def respond(self, call: Call) -> bytes:
        return answer()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await _read_head(reader):
                call = _parse(head)
                call.body = await reader.readexactly(int(call.headers.get("content-length", "0")))
                self.calls.append(call)
                writer.write(await self.respond(call))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            writer.close()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _parse(head: bytes) -> Call:
    first, *lines = head.decode().rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    pairs = [line.split(": ", 1) for line in lines]
    return Call(method, path, {name.lower(): value for name, value in pairs})


@asynccontextmanager
async def running() -> AsyncIterator[Upstream]:
    """Serve on a free port of this machine for the time of the block."""
    upstream = Upstream()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(upstream.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1000)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield upstream
    server.close()
    for task in tuple(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

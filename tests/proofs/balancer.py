"""A round-robin proxy like a load balancer: it probes, keeps connections open, and retries nothing."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

PROBE_SECONDS = 0.25
UNREADY_PROBES = 2
"""So many have to fail, one after the other: a probe may also be late on a busy machine."""
_PATIENCE_SECONDS = 30

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Message:
    """A request or an answer, as far as a proxy looks at it."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def closes(self) -> bool:
        return b"\r\nconnection: close\r\n" in self.head.lower()


async def read_message(reader: asyncio.StreamReader) -> Message:
    """Return the next one; its body is as long as Content-Length says."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
    return Message(head, await reader.readexactly(lengths[0]) if lengths else b"")


@dataclass
class Instance:
    """One of the servers behind the proxy."""

    port: int
    is_ready: bool = False
    has_come_up: asyncio.Event = field(default_factory=asyncio.Event)
    idle: deque[Stream] = field(default_factory=deque)

    async def ask(self, request: bytes) -> Message:
        """Pass on one request: on a connection that is open, as far as anybody knows, or on a new one."""
        reader, writer = self._take() or await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            answer = await read_message(reader)
        except BaseException:
            writer.close()
            raise
        if answer.closes:
            writer.close()
        else:
            self.idle.append((reader, writer))
        return answer

    def _take(self) -> Stream | None:
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def probe(self) -> None:
        """Ask for readiness again and again, on a connection of its own each time."""
        failed = 0
        while True:
            failed = 0 if await self._is_ready() else failed + 1
            if not failed and not self.is_ready:
                self.has_come_up.set()
            self.is_ready = failed < UNREADY_PROBES if self.is_ready else not failed
            await asyncio.sleep(PROBE_SECONDS)

    async def _is_ready(self) -> bool:
        with suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
                    return (await read_message(reader)).status == 200
                finally:
                    writer.close()
        return False

    def close(self) -> None:
        for _, writer in self.idle:
            writer.close()


class Balancer:
    """Passes each request on to the next instance that is ready."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.instances = [Instance(port) for port in ports]
        self._turn = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one caller, for as long as it keeps its connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await read_message(reader)
                writer.write(await self._pass_on(request.head + request.body))
        writer.close()

    async def _pass_on(self, request: bytes) -> bytes:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                answer = await self._choose().ask(request)
        except (OSError, EOFError, TimeoutError, LookupError) as error:
            told = type(error).__name__.encode()
            return b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told)
        # What one hop says of its connection is not for the next one.
        head = b"\r\n".join(
            line for line in answer.head.split(b"\r\n") if not line.lower().startswith(b"connection:")
        )
        return head + answer.body

    def _choose(self) -> Instance:
        ready = [instance for instance in self.instances if instance.is_ready]
        if not ready:
            raise LookupError("No instance is ready.")
        self._turn += 1
        return ready[self._turn % len(ready)]


@asynccontextmanager
async def balancing(ports: Sequence[int]) -> AsyncIterator[tuple[Balancer, int]]:
    """Run a proxy in front of the ports; gives it, and its own port."""
    balancer = Balancer(ports)
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0)
    probes = [asyncio.create_task(instance.probe()) for instance in balancer.instances]
    try:
        yield balancer, server.sockets[0].getsockname()[1]
    finally:
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        server.close()
        for instance in balancer.instances:
            instance.close()

"""A thousand callers that take their time, on one thread: the system tells when a server has had enough."""

import select
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from time import monotonic, sleep

_BEGINNINGS = {
    "silent": b"",
    "slow head": b"GET /fast HTTP/1.1\r\nHost: shop.example\r\nX-A: ",
    "slow body": b"POST /upload HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 100000\r\n\r\n",
    "slow reader": b"GET /large HTTP/1.1\r\nHost: shop.example\r\n\r\n",
}
_TRICKLE_SECONDS = 1.0
_ARRIVAL_SECONDS = 0.002


@dataclass
class Crowd:
    """How long each of them was borne, by what it does; those that still are have none."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    is_over: threading.Event = field(default_factory=threading.Event)
    open: dict[int, tuple[str, socket.socket, float]] = field(default_factory=dict)

    def note_end(self, number: int) -> None:
        kind, connection, since = self.open.pop(number)
        self.seconds[kind].append(monotonic() - since)
        connection.close()

    @property
    def closed(self) -> int:
        return sum(map(len, self.seconds.values()))

    @property
    def slowest(self) -> float:
        return max(max(seconds) for seconds in self.seconds.values())

    def __str__(self) -> str:
        return ", ".join(
            f"{kind}: {len(seconds)} after {median(seconds):.2f} s, at the latest {max(seconds):.2f} s"
            for kind, seconds in sorted(self.seconds.items())
        )


@contextmanager
def crowd(port: int, *, size: int) -> Iterator[Crowd]:
    """Let so many callers be slow while the block runs, a quarter of them in each way."""
    found = Crowd()
    thread = threading.Thread(target=_behave, args=(found, port, size), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.is_over.set()
        thread.join()
        for _, connection, _ in found.open.values():
            connection.close()


def _behave(found: Crowd, port: int, size: int) -> None:
    with select.epoll() as watch:
        for number in range(size):
            kind = list(_BEGINNINGS)[number % len(_BEGINNINGS)]
            connection = _connect(port)
            found.open[connection.fileno()] = (kind, connection, monotonic())
            watch.register(connection.fileno(), select.EPOLLRDHUP)
            with suppress(OSError):
                connection.send(_BEGINNINGS[kind])
            sleep(_ARRIVAL_SECONDS)
        trickled = monotonic()
        while found.open and not found.is_over.is_set():
            for number, _ in watch.poll(0.02):
                watch.unregister(number)
                found.note_end(number)
            if monotonic() - trickled > _TRICKLE_SECONDS:
                trickled = monotonic()
                _trickle(found)


def _connect(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    return connection


def _trickle(found: Crowd) -> None:
    """Move one byte on each connection: some progress, and too little of it."""
    for kind, connection, _ in tuple(found.open.values()):
        with suppress(OSError):
            if kind == "slow reader":
                connection.recv(1)
            elif kind != "silent":
                connection.send(b"x")

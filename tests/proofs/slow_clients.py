"""One of the processes of test_slow_clients.py: callers that take their time, until the server has enough.

`python slow_clients.py PORT SIZE SECONDS`; at its end, or after so many seconds, it prints as JSON how long
each of them was borne, by what it does. All are on one thread: the system tells which connections have ended.
"""

import json
import select
import socket
import sys
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

BEGINNINGS = {
    "silent": b"",
    "slow head": b"GET /fast HTTP/1.1\r\nHost: shop.example\r\nX-A: ",
    "slow body": b"POST /upload HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 100000\r\n\r\n",
    "slow reader": b"GET /large HTTP/1.1\r\nHost: shop.example\r\n\r\n",
}
_TRICKLE_SECONDS = 1.0
_ARRIVAL_SECONDS = 0.0045
"""All of them are there before the first one is closed, and not all in one moment."""


@dataclass
class Slow:
    """One of them."""

    kind: str
    connection: socket.socket
    since: float
    next_byte: float

    def trickle(self) -> None:
        """Move one byte, each at its own time: some progress, and too little of it."""
        self.next_byte += _TRICKLE_SECONDS
        with suppress(OSError):
            if self.kind == "slow reader":
                self.connection.recv(1)
            elif self.kind != "silent":
                self.connection.send(b"x")


def main(port: int, size: int, seconds: float) -> None:
    """Open all connections, be slow on them, and tell how long that went well."""
    began = monotonic()
    arrived, waiting, turns = 0, dict[int, Slow](), deque[Slow]()
    borne: dict[str, list[float]] = defaultdict(list)
    with select.epoll() as watch:
        while (arrived < size or waiting) and monotonic() < began + seconds:
            if arrived < min(size, (monotonic() - began) / _ARRIVAL_SECONDS):
                slow = _arrive(port, list(BEGINNINGS)[arrived % len(BEGINNINGS)])
                waiting[slow.connection.fileno()] = slow
                turns.append(slow)
                watch.register(slow.connection.fileno(), select.EPOLLRDHUP)
                arrived += 1
            for number, _ in watch.poll(_ARRIVAL_SECONDS / 4):
                ended = waiting.pop(number)
                borne[ended.kind].append(monotonic() - ended.since)
                ended.connection.close()
            while turns and turns[0].next_byte < monotonic():
                slow = turns.popleft()
                if slow.connection.fileno() in waiting:
                    slow.trickle()
                    turns.append(slow)
    print(json.dumps(borne))  # noqa: T201  it is what the test reads


def _arrive(port: int, kind: str) -> Slow:
    connection, now = _connect(port), monotonic()
    slow = Slow(kind, connection, now, now + _TRICKLE_SECONDS)
    with suppress(OSError):
        slow.connection.send(BEGINNINGS[kind])
    return slow


def _connect(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    return connection


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))

"""One of the processes of test_slow_clients.py: callers that take their time, until the server has enough.

`python slow_clients.py PORT SIZE SECONDS`; at its end, or after so many seconds, it prints as JSON how long
each of them was borne, by what it does. All are on one thread: the system tells which connections have ended.
"""

import json
import select
import socket
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, sleep

BEGINNINGS = {
    "silent": b"",
    "slow head": b"GET /fast HTTP/1.1\r\nHost: shop.example\r\nX-A: ",
    "slow body": b"POST /upload HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 100000\r\n\r\n",
    "slow reader": b"GET /large HTTP/1.1\r\nHost: shop.example\r\n\r\n",
}
_TRICKLE_SECONDS = 1.0
_ARRIVAL_SECONDS = 0.004


@dataclass
class Slow:
    """One of them."""

    kind: str
    connection: socket.socket
    since: float

    def trickle(self) -> None:
        """Move one byte: some progress, and too little of it."""
        with suppress(OSError):
            if self.kind == "slow reader":
                self.connection.recv(1)
            elif self.kind != "silent":
                self.connection.send(b"x")


def main(port: int, size: int, seconds: float) -> None:
    """Open all connections, be slow on them, and tell how long that went well."""
    until = monotonic() + seconds
    borne: dict[str, list[float]] = defaultdict(list)
    with select.epoll() as watch:
        waiting = _arrive(port, size, watch)
        trickled = monotonic()
        while waiting and monotonic() < until:
            for number, _ in watch.poll(0.02):
                ended = waiting.pop(number)
                borne[ended.kind].append(monotonic() - ended.since)
                ended.connection.close()
            if monotonic() - trickled > _TRICKLE_SECONDS:
                trickled = monotonic()
                for slow in waiting.values():
                    slow.trickle()
    print(json.dumps(borne))  # noqa: T201  it is what the test reads


def _arrive(port: int, size: int, watch: select.epoll) -> dict[int, Slow]:
    """Connect, faster than anybody is closed, and not all in one moment."""
    arrived = {}
    for number in range(size):
        kind = list(BEGINNINGS)[number % len(BEGINNINGS)]
        slow = Slow(kind, _connect(port), monotonic())
        arrived[slow.connection.fileno()] = slow
        watch.register(slow.connection.fileno(), select.EPOLLRDHUP)
        with suppress(OSError):
            slow.connection.send(BEGINNINGS[kind])
        sleep(_ARRIVAL_SECONDS)
    return arrived


def _connect(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    return connection


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))

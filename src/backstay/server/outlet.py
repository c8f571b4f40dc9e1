"""The way out of a connection: counts what is written, and closes so that the last answer arrives."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["Outlet"]

_AT_ONCE = struct.pack("ii", 1, 0)
"""Linger on, for no time: the connection is reset."""

_UNSENT_BYTES = 128 * 1024
"""What the system takes beyond what is on its way: else it is megabytes for each who reads nothing."""


class Outlet:
    """A transport as Uvicorn uses it.

    A socket that is closed while something unread is in it makes the system reset the connection, and the
    other side may lose the answer that it has not read yet. So where more may come, only our half is closed
    at first: the other side reads the answer to its end and closes in its turn (RFC 9112, 9.6).

    Args:
        transport: The connection's own.
        is_read: Whether what has come so far was whole requests.

    Attributes:
        written: The bytes that were written since the connection was opened.
        is_lingering: Whether our half is closed, and what still comes is thrown away.
    """

    __slots__ = (
        "_is_read",
        "_transport",
        "_write",
        "get_extra_info",
        "is_closing",
        "is_lingering",
        "pause_reading",
        "resume_reading",
        "written",
    )

    def __init__(self, transport: asyncio.Transport, *, is_read: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_read = is_read
        self._write = transport.write
        self.written = 0
        self.is_lingering = False
        # Taken over as they are: a call through a method of ours would cost each request.
        self.is_closing: Callable[[], bool] = transport.is_closing
        self.get_extra_info: Callable[..., Any] = transport.get_extra_info
        self._set_option(socket.IPPROTO_TCP, getattr(socket, "TCP_NOTSENT_LOWAT", None), _UNSENT_BYTES)
        self.pause_reading: Callable[[], None] = transport.pause_reading
        self.resume_reading: Callable[[], None] = transport.resume_reading

    @property
    def transport(self) -> asyncio.Transport:
        """The connection's own transport."""
        return self._transport

    @property
    def waiting(self) -> int:
        """The bytes that the other side, and the system on both, have not taken yet."""
        return self._transport.get_write_buffer_size()

    def write(self, content: bytes) -> None:
        """Send, as soon as the other side takes it."""
        self.written += len(content)
        self._write(content)

    def close(self) -> None:
        """Close once everything is sent."""
        if self._is_read() and not self.has_unread():
            self._transport.close()
        else:
            self.linger()

    def linger(self) -> None:
        """Close our half once everything is sent; whoever calls ends the rest, with `abort`."""
        if self.is_lingering or self._transport.is_closing():
            return
        self.is_lingering = True
        self.is_closing = _always
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is not sent.

        The system, too, is to forget it: else it went on offering what the other side does not take.
        """
        self._set_option(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def _set_option(self, level: int, name: int | None, value: int | bytes) -> None:
        opened = self._transport.get_extra_info("socket")
        if opened is not None and name is not None and opened.fileno() >= 0:
            with suppress(OSError):  # not every socket is one of TCP
                opened.setsockopt(level, name, value)

    def has_unread(self) -> bool:
        """Return whether the system holds something that came and was not read yet."""
        opened = self._transport.get_extra_info("socket")
        if opened is None or opened.fileno() < 0:
            return False
        try:
            return any(fcntl.ioctl(opened.fileno(), termios.FIONREAD, bytes(4)))
        except OSError:
            return False


def _always() -> bool:
    return True

"""Uvicorn's protocol for HTTP/1.1, with bounds on every wait and every size.

Uvicorn waits for ever for a head, for a body and for a caller that does not read, and collects a head of
any size. Here a connection is in one of three states of reading, and one sweeper looks how long it has been
there:

    AWAITING    no byte of the next request has come: closed in silence
    HEAD        some of it has come: 408
    BODY        the head is complete: 408, when it takes too long or is too slow

What is written and not read is watched beside them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar, Final, cast
from weakref import WeakKeyDictionary

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from backstay.server.bounds import Bounds
from backstay.server.outlet import Outlet
from backstay.server.refusals import (
    BODY_TOO_SLOW,
    HEAD_TOO_LARGE,
    HEAD_TOO_SLOW,
    MALFORMED,
    TARGET_TOO_LONG,
    TOO_MANY_AT_ONCE,
    Refusal,
    refuse_headers,
    refuse_request_line,
)
from backstay.server.sweeper import Patience, Sweeper

__all__ = ["HttpProtocol"]

_logger = logging.getLogger("backstay.server")

_AWAITING: Final = 0
_HEAD: Final = 1
_BODY: Final = 2

_LINGER_SECONDS = 1.0
_MOST_PIPELINED = 64
_FRAMING = 16
"""How many bytes of chunks' sizes and ends a byte of a body may come with: the smallest chunk has six."""


class RefusedError(Exception):
    """Leaves the parser; the reason is kept in the connection."""


class _Server:
    """What the connections of one server share."""

    __slots__ = ("bounds", "sweeper")

    def __init__(self, config: Config, state: ServerState) -> None:
        self.bounds = Bounds.of_app(config.loaded_app)
        self.sweeper = Sweeper(state.connections)


class HttpProtocol(HttpToolsProtocol):
    """One connection; Uvicorn makes it."""

    _servers: ClassVar[WeakKeyDictionary[ServerState, _Server]] = WeakKeyDictionary()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        server = self._servers.get(server_state)
        if server is None:
            server = self._servers[server_state] = _Server(config, server_state)
        self._server = server
        self._bounds = bounds = server.bounds
        self._max_head_bytes = bounds.head_bytes
        self._outlet: Outlet = cast("Outlet", None)
        self._reading = _AWAITING
        self._since = 0.0
        self._is_timed = True
        self._has_asked = False
        self._head_bytes = self._piece_bytes = self._body_bytes = self._read_bytes = 0
        self._stays_open = False
        self._is_stopping = False
        self._ignored_upgrade: bytes | None = None
        self._refusal: Refusal | None = None
        self._checked_at = self._lingers_until = 0.0
        self._is_reader_behind = False
        self._patience, self._reader_patience = (
            Patience(seconds=bounds.stall_seconds, bytes_per_second=bounds.min_bytes_per_second)
            for _ in range(2)
        )

    # What Uvicorn and the event loop call.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        self._outlet = Outlet(transport, is_read=self._is_between_requests)
        super().connection_made(cast("asyncio.Transport", self._outlet))
        self._since = self.loop.time()
        self._server.sweeper.begin(self.loop)

    def data_received(self, data: bytes) -> None:
        """Read what has come, in pieces that are no longer than a head may be."""
        if len(data) <= self._max_head_bytes:
            self._read(data)
            return
        for start in range(0, len(data), self._max_head_bytes):
            self._read(data[start : start + self._max_head_bytes])

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._reading = _HEAD
        self._head_bytes = 0
        # The first one has its time since the connection was opened.
        self._is_timed = not self._has_asked

    def on_headers_complete(self) -> None:
        """Hand the request to the app, unless its head is refused."""
        parser, before = self.parser, self._latest
        target, version = self.url, parser.get_http_version()
        refusal = refuse_request_line(
            self._bounds, method=parser.get_method(), target=target, version=version
        ) or refuse_headers(
            self._bounds,
            self.headers,
            target=target,
            version=version,
            read_bytes=self._head_bytes + self._piece_bytes,
        )
        if refusal is None and len(self.pipeline) >= _MOST_PIPELINED:
            refusal = TOO_MANY_AT_ONCE
        if refusal is not None:
            self._refusal = refusal
            raise RefusedError
        super().on_headers_complete()
        self._has_asked = True
        self._reading = _BODY
        self._is_timed = False
        self._body_bytes = self._read_bytes = 0
        if self._latest is before:
            return  # it becomes a WebSocket
        if parser.should_upgrade():
            self._ignored_upgrade = _framing(self.headers)
        self.headers = []  # what stands behind the body is no header of the request
        # Until all of it is here nobody knows where the next request begins.
        self._stays_open = self.cycle.keep_alive and self._ignored_upgrade is None
        self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is whole: its connection may serve another one."""
        if self._ignored_upgrade is not None:
            return  # the parser takes the rest for another protocol
        super().on_message_complete()
        self._reading = _AWAITING
        if self._stays_open and not self._is_stopping and not self.cycle.response_started:
            self.cycle.keep_alive = True

    def on_response_complete(self) -> None:
        """Go on with what waits: the next request, or a refusal."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._answer_refusal()
        elif self._reading == _AWAITING:
            self._since = self.loop.time()

    def shutdown(self) -> None:
        """Close as soon as what was accepted is answered; what is on its way in counts as accepted."""
        self._is_stopping = True
        if self._latest is not None and not self._latest.response_complete:
            self._stays_open = self._latest.keep_alive = False
        elif self._is_between_requests() and not self._outlet.has_unread():
            self.transport.close()

    # Reading.

    @property
    def _latest(self) -> RequestResponseCycle | None:
        """The request that came last; None before the first one."""
        return self.cycle

    def _read(self, data: bytes) -> None:
        if self._refusal is not None or self._outlet.is_lingering:
            return
        self._piece_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._leave_http(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal or MALFORMED)
        else:
            if self._reading != _AWAITING:
                self._measure(data)

    def _measure(self, data: bytes) -> None:
        """Look at a request that is not whole yet."""
        if not self._is_timed:
            self._is_timed = True
            self._since = self.loop.time()
            self._patience.begin(self._since, self._body_bytes)
        if self._reading == _HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > self._max_head_bytes:
                is_target = len(self.url) > self._bounds.max_target_bytes
                self._refuse(TARGET_TOO_LONG if is_target else HEAD_TOO_LARGE)
        else:
            # Around its pieces a body has their sizes, extensions, and the lines behind its end.
            self._read_bytes += len(data)
            if self._read_bytes > 2 * self._max_head_bytes + _FRAMING * self._body_bytes:
                self._refuse(HEAD_TOO_LARGE)

    def _is_between_requests(self) -> bool:
        return self._reading == _AWAITING

    def _leave_http(self, rest: bytes) -> None:
        if self._ignored_upgrade is None:
            self.transport = self._outlet.transport
            self.handle_websocket_upgrade()
            return
        # The parser stops at any upgrade, whatever we make of it; who offers one goes on in HTTP/1.1 when it
        # is not taken (RFC 9110, 7.8). So another parser reads the body, and nothing after it.
        framing, self._ignored_upgrade = self._ignored_upgrade, None
        self.parser = httptools.HttpRequestParser(_BodyOnly(self))
        self._read(b"POST / HTTP/1.1\r\n" + framing + b"\r\n" + rest)

    # Refusing.

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in place of the app, once the requests before this one are answered."""
        self._refusal = refusal
        cycle = self._latest
        if cycle is None or cycle.response_complete:
            self._answer_refusal()
        elif self._reading != _BODY:
            return  # on_response_complete comes back to it
        elif self.pipeline:
            self.pipeline.popleft()  # the last one, whose body is not here; the app has not seen it
        elif cycle.response_started:
            self._outlet.abort()
        else:
            cycle.disconnected = True  # for the app its caller has left
            cycle.message_event.set()
            self._answer_refusal(cycle.scope.get("backstay.request_id"))

    def _answer_refusal(self, request_id: object = None) -> None:
        if self._refusal is None or self.transport.is_closing():
            return
        self._outlet.write(
            self._refusal.answer(
                self._bounds,
                date=self.server_state.default_headers,
                request_id=request_id if isinstance(request_id, str) else None,
            )
        )
        self._outlet.linger()

    # Watching.

    def check(self, now: float) -> None:
        """End what took too long; the sweeper calls it for each connection."""
        elapsed, self._checked_at = now - self._checked_at, now
        if self._reads_too_slowly(now):
            _logger.info("A connection is closed: what it is sent is not read.")
            self._outlet.abort()
        elif self._outlet.is_lingering:
            self._end_lingering(now)
        elif self._refusal is not None:
            return
        elif self.flow.read_paused:
            self._since += elapsed  # we are the one that does not read
            self._patience.begin(now, self._body_bytes)
        else:
            self._check_reading(now)

    def _check_reading(self, now: float) -> None:
        waited, bounds = now - self._since, self._bounds
        if self._reading == _HEAD:
            if waited > bounds.header_seconds:
                self._refuse(HEAD_TOO_SLOW)
        elif self._reading == _BODY:
            if self._patience.is_over(now, self._body_bytes) or waited > bounds.body_seconds:
                self._refuse(BODY_TOO_SLOW)
        elif self._latest is None:
            if waited > bounds.header_seconds:
                self.transport.close()
        elif self._latest.response_complete and waited > bounds.keep_alive_seconds:
            self.transport.close()

    def _reads_too_slowly(self, now: float) -> bool:
        waiting = self._outlet.waiting
        read = self._outlet.written - waiting
        if waiting and self._is_reader_behind:
            return self._reader_patience.is_over(now, read)
        self._is_reader_behind = bool(waiting)
        if waiting:
            self._reader_patience.begin(now, read)
        return False

    def _end_lingering(self, now: float) -> None:
        if not self._lingers_until:
            self._lingers_until = now + _LINGER_SECONDS
        elif now > self._lingers_until and not self._outlet.waiting:
            self._outlet.abort()


class _BodyOnly:
    """Passes on the rest of one request: its body and its end."""

    __slots__ = ("on_body", "on_message_complete")

    def __init__(self, protocol: HttpProtocol) -> None:
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete


def _framing(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the lines that say how long the body is."""
    names = (b"content-length", b"transfer-encoding")
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers if name in names)

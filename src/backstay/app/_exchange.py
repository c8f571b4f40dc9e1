"""One request from its first byte to its access line, as pure ASGI.

Two layers, so that cross-origin headers can be put between them and reach every answer:

    outer   request id, headers on every response, context of log lines, access line
    inner   unit of work, repetition, body limit, and an answer for every error
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import deque
from collections.abc import Mapping
from functools import partial
from time import monotonic, perf_counter
from typing import NoReturn

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backstay import events
from backstay.app._in_flight import current_exchange
from backstay.app._input_rules import BodyReading, explain_unread_body
from backstay.app._limit_record import LimitRecord
from backstay.app._repetition import Repetition
from backstay.app.conditions import Condition
from backstay.app.idempotency import Claim, KeyTurns, ReplayedError
from backstay.app.installation import Installation
from backstay.app.problems import render_problem
from backstay.app.runtime import Entered
from backstay.app.unit_of_work import UnitOfWork
from backstay.db import as_app_error, is_lost, is_refusal, is_repeatable
from backstay.db.records import KeyRecords
from backstay.deadline import enter_call, leave_call
from backstay.errors import UnavailableError
from backstay.logging import get_logger
from backstay.security import Principal
from backstay.telemetry.traces import mask_request_span

__all__ = ["Exchange"]

_logger = logging.getLogger("backstay.app")
_access = get_logger("backstay.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")
# W3C Trace Context: version, trace id, parent id, flags.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REPLAY_BYTES = 1024 * 1024
_NOTHING: Mapping[str, object] = {}
_LEFT_STATUS = 499  # nginx's number for "the client closed the connection"; never sent


class ResponseStoppedError(Exception):
    """Unwinds the app when its response must not be sent; the reason is kept in the exchange."""


class Exchange:
    """One HTTP request and its answer."""

    __slots__ = (
        "_installation",
        "_is_counted",
        "_is_started",
        "_limits",
        "_metrics",
        "_send_outside",
        "_stopped_by",
        "_watcher",
        "answer_headers",
        "began",
        "call",
        "claim",
        "condition",
        "has_left",
        "inbox",
        "principal",
        "request_id",
        "scope",
        "status",
        "task",
        "trace_id",
        "turn",
        "unit",
    )

    def __init__(self, installation: Installation, scope: Scope, receive: Receive, send: Send) -> None:
        self._installation = installation
        self._send_outside = send
        self.task = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        observation = installation.observation
        self._metrics = observation.metrics if observation is not None else None
        self._is_counted = False
        self._is_started = False
        self._limits: LimitRecord | None = None
        self._stopped_by: Exception | None = None
        self.began = perf_counter()
        self.answer_headers: list[tuple[bytes, bytes]] = []
        self.call = installation.time_limits.begin(scope)
        self.claim: Claim | None = None
        self.condition: Condition | None = None
        self.has_left = False
        self.inbox = Inbox(
            receive, max_bytes=installation.max_body_bytes, reading=installation.input_rules.reading(scope)
        )
        self.principal: Principal | None = None
        self.scope = scope
        self.status = 0
        self.turn: asyncio.Lock | None = None
        self.unit: UnitOfWork | None = None
        headers = Headers(scope=scope)
        self.request_id = _request_id(headers.get(installation.request_id_header))
        self.trace_id = _trace_id(headers.get("traceparent"))
        scope["backstay.request_id"] = self.request_id
        scope["backstay.exchange"] = self

    # The outer layer.

    async def run(self, app: ASGIApp) -> None:
        """Serve the request through `app` and write its access line."""
        entered = Entered(self._installation.runtime)
        token = current_exchange.set(self)
        call_token = enter_call(self.call)
        self._installation.in_flight.add(self)
        self._mask_span()
        try:
            await app(self.scope, self.inbox, self.send)
        except asyncio.CancelledError:
            if not self.has_left or self.task is None:
                raise
            self.task.uncancel()
            self.status = self.status or _LEFT_STATUS
        finally:
            self._installation.in_flight.discard(self)
            if self._watcher is not None:
                self._watcher.cancel()
            self._finish()
            leave_call(call_token)
            current_exchange.reset(token)
            entered.leave()
            # The scope and the exchange know each other: parted, both go at once and not with the next
            # collection.
            for key in ("backstay.exchange", "backstay.routed"):
                self.scope.pop(key, None)

    async def send(self, message: Message) -> None:
        """Pass a message on, with the headers that every response carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers[self._installation.request_id_header] = self.request_id
            for name, value in self._installation.response_headers:
                headers.setdefault(name, value)
            if self.principal is not None:
                headers.setdefault("Cache-Control", "no-store")
            self.answer_headers = message["headers"]
            if self._installation.stopping.is_draining:
                self._installation.stopping.end_connection(self, headers)
            for name, value in self._limits.headers().items() if self._limits is not None else ():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._count()
            self.call.lift_deadline()  # what runs in the background after the answer has none
        await self._send_outside(message)
        if message.get("more_body", False):
            # A stream that waits for nothing would let nobody in, not even the news that its caller has left.
            await asyncio.sleep(0)

    def _mask_span(self) -> None:
        observation = self._installation.observation
        if observation is not None and observation.span_mask is not None:
            query = self.scope.get("query_string", b"").decode("latin-1")
            mask_request_span(observation.span_mask, path=self.scope["path"], query=query)

    def _count(self) -> None:
        # Before the last byte leaves: whoever has an answer finds it counted, also when this process is
        # killed the moment after.
        if self._metrics is not None and not self._is_counted:
            self._is_counted = True
            self._metrics.count_request(
                self.scope["method"],
                self.route,
                status=self.status or 500,
                seconds=perf_counter() - self.began,
            )

    @property
    def routed(self) -> Scope:
        """The scope that the router has written into."""
        routed: Scope = self.scope.get("backstay.routed", self.scope)
        return routed

    @property
    def limits(self) -> LimitRecord:
        """What rate limits said to this request."""
        if self._limits is None:
            self._limits = LimitRecord()
        return self._limits

    @property
    def route(self) -> str | None:
        """The template of the route, prefixes included, once the request has reached one."""
        routed = self.routed
        context = routed.get("fastapi", {}).get("effective_route_context")
        path = getattr(context, "path_format", None) or _find_template(routed)
        return path if isinstance(path, str) else None

    def _finish(self) -> None:
        self._count()  # what got no answer, because its caller left
        seconds = perf_counter() - self.began
        method = self.scope["method"]
        if self._installation.logs_access:
            write = _access.debug if self.scope["path"] in self._installation.quiet_paths else _access.info
            write(
                "request",
                method=method,
                path=self.scope["path"],
                status=self.status,
                milliseconds=round(seconds * 1000, 2),
            )
        if events.is_watched(events.RequestFinished):
            events.emit(
                events.RequestFinished(
                    request_id=self.request_id,
                    method=method,
                    route=self.route,
                    status=self.status,
                    seconds=seconds,
                )
            )

    @property
    def is_event_stream(self) -> bool:
        """Whether its answer has begun, and is a stream of events that ends when somebody ends it."""
        return self._is_started and any(
            name == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in self.answer_headers
        )

    def watch_for_leaving(self) -> None:
        """Cancel the request when its caller goes away; only for requests that change nothing."""
        if self._watcher is None and not self._is_started and self.scope["method"] in {"GET", "HEAD"}:
            self._watcher = asyncio.create_task(self._cancel_when_left())

    async def _cancel_when_left(self) -> None:
        await self.inbox.wait_for_disconnect()
        if self.task is not None and not self._is_started:
            self.has_left = True
            self.task.cancel()

    # The inner layer.

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app, as often as a repeatable route needs, and answer every error it leaves."""
        if self.inbox.is_too_large(scope):
            await self._answer(HTTPException(413), scope, receive, send)
            return
        if (refusal := self._installation.input_rules.refuse(scope)) is not None:
            await self._answer(refusal, scope, receive, send)
            return
        try:
            error = await self._serve_in_time(app, scope, receive, send)
        except asyncio.CancelledError:
            if not self.call.take_cancellation():
                raise
            stopped = self._stopped_by or self._installation.stopping.explain_end()
            error = stopped or self.call.explain()
        if error is not None:
            await self._answer(error, scope, receive, send)

    async def _serve_in_time(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> Exception | None:
        if not self.call.caller_waits:
            return UnavailableError("There is no time left for this request.")
        error = await self._attempt(app, scope, receive, send)
        if error is None:
            return None
        again = partial(self._attempt, app, scope, receive, send)
        return await Repetition(self, self._installation, again).run(error)

    @property
    def has_answered(self) -> bool:
        """Whether the answer has begun to leave."""
        return self._is_started

    async def _attempt(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Exception | None:
        routed = dict(scope)  # the router writes into it, and another attempt starts afresh
        self.scope["backstay.routed"] = routed
        self._stopped_by = self.condition = self.claim = None
        if self._limits is not None:
            self._limits.begin_attempt()
        unit = self.unit = UnitOfWork(self._installation.database) if self._installation.has_started else None
        try:
            await app(routed, receive, lambda message: self._end_unit_then_send(message, send))
        except Exception as error:  # noqa: BLE001  the last resort: every error gets an answer
            return self._stopped_by or error
        finally:
            if unit is not None:
                await unit.abandon()
            self._end_turn()
        return self._stopped_by

    async def _end_unit_then_send(self, message: Message, send: Send) -> None:
        if self._stopped_by is not None:
            raise ResponseStoppedError
        if self.claim is not None and self.unit is not None:
            await self._store_then_send(self.claim, self.unit, message, send)
            return
        if message["type"] == "http.response.start":
            if self.unit is not None:
                await self._end_unit(self.unit, message["status"])
            self._is_started = True
            if "effective_route_context" not in self.routed.get("fastapi", _NOTHING):
                # A mounted app, such as one that sends files, has no markers that could give it more time.
                self.call.lift_deadline()
        if self.condition is None:
            await send(message)
        else:
            await self.condition.send(message, send)

    async def _store_then_send(self, claim: Claim, unit: UnitOfWork, message: Message, send: Send) -> None:
        """Hold the response back until it is whole: it is committed together with what it says."""
        if message["type"] == "http.response.start" and not unit.would_commit(message["status"]):
            self.claim = None
            await self._end_unit(unit, message["status"])
            self._end_turn()
            await self._end_unit_then_send(message, send)
            return
        try:
            if (messages := claim.gather(message)) is None:
                return
            if self.condition is not None:
                self.condition.refuse_unchecked(messages[0]["status"])
            messages = await claim.store(messages, self.condition)
            self.call.is_ending = True
            await unit.end(status=messages[0]["status"])
        except Exception as error:
            self._stopped_by = error
            raise ResponseStoppedError from error
        finally:
            self.call.is_ending = False
        self.claim = self.condition = None
        self._end_turn()
        self._is_started = True
        for part in messages:
            await send(part)

    def _end_turn(self) -> None:
        if self.turn is not None:
            self.turn.release()
            self.turn = None

    def stop(self, error: Exception) -> NoReturn:
        """Leave the app, whatever it makes of the error, and answer what the error says."""
        self._stopped_by = error
        self.condition = None
        raise error

    @property
    def key_turns(self) -> KeyTurns:
        """What requests of this process with the same key take turns by."""
        return self._installation.key_turns

    @property
    def key_records(self) -> KeyRecords:
        """The idempotency keys of the running service."""
        return self._installation.key_records

    async def _end_unit(self, unit: UnitOfWork, status: int) -> None:
        error = unit.error
        if unit.is_repeatable and isinstance(error, Exception) and (is_repeatable(error) or is_lost(error)):
            # A handler made a response of it, which a repetition may spare the caller.
            self._stopped_by = error
            raise ResponseStoppedError
        self.call.is_ending = True
        try:
            if self.condition is not None:
                self.condition.refuse_unchecked(status)
            await unit.end(status=status)
        except Exception as error:
            self._stopped_by = error
            raise ResponseStoppedError from error
        finally:
            self.call.is_ending = False

    async def _answer(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_event_stream and not self.call.ends_at > monotonic():
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        if self._is_started:
            _logger.error("A response broke off after its first byte.", exc_info=error)
            return  # the server sees an incomplete response and closes the connection
        if isinstance(error, ClientDisconnect):
            self.status = _LEFT_STATUS
            _logger.info("The caller left before its request was whole.")
            return
        if isinstance(error, ReplayedError):
            await error.response()(scope, receive, send)
            return
        request = Request(self.routed, receive)
        meaning = as_app_error(error) or explain_unread_body(error)
        if self.condition is not None:
            meaning = self.condition.explain(meaning)
        response = await render_problem(request, error, meaning=meaning)
        if is_refusal(error):
            _logger.warning("A request was refused: %s", error)  # a traceback costs more than serving one
        elif response.status_code >= 500:
            _logger.error("A request failed.", exc_info=error)
        else:
            _logger.info("%s was answered with %s.", type(error).__name__, response.status_code)
        await response(scope, receive, send)


class Inbox:
    """The request's body and the news that the caller left; limits the one, and can play it again."""

    __slots__ = ("_bytes", "_kept", "_max_bytes", "_pending", "_reading", "_receive", "can_replay", "is_read")

    def __init__(
        self, receive: Receive, *, max_bytes: int | None, reading: BodyReading | None = None
    ) -> None:
        self._receive = receive
        self._reading = reading
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: list[Message] = []
        self._pending: deque[Message] = deque()
        self.can_replay = True
        self.is_read = False

    def is_too_large(self, scope: Scope) -> bool:
        """Return whether the request says of itself that its body is over the limit."""
        declared = Headers(scope=scope).get("content-length", "")
        return self._max_bytes is not None and declared.isdecimal() and int(declared) > self._max_bytes

    async def __call__(self) -> Message:
        """Return the next message."""
        message = self._pending.popleft() if self._pending else self._keep(await self._receive())
        if self._reading is not None and message["type"] == "http.request":
            self._reading.take(message)
        return message

    def _keep(self, message: Message) -> Message:
        if message["type"] != "http.request":
            return message
        self._bytes += len(message.get("body", b""))
        self.is_read = not message.get("more_body", False)
        if self._max_bytes is not None and self._bytes > self._max_bytes:
            raise HTTPException(413)
        if self._bytes <= _REPLAY_BYTES:
            self._kept.append(message)
        else:
            self.can_replay = False
            self._kept.clear()
        return message

    @property
    def body(self) -> bytes:
        """What was read so far, as long as `can_replay`."""
        return b"".join(message.get("body", b"") for message in self._kept)

    def replay(self) -> None:
        """Start again from the first message."""
        self._pending = deque(self._kept)

    async def wait_for_disconnect(self) -> None:
        """Return when the caller has left; what arrives meanwhile is kept for the app."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._pending.append(message)
                return
            self._pending.append(self._keep(message))


def _find_template(routed: Scope) -> str | None:
    """Return the template of a route or mount that FastAPI did not make, and tells nothing of."""
    endpoint = routed.get("endpoint")
    if endpoint is None:
        return None
    for route in routed["app"].routes:
        if endpoint in (getattr(route, "endpoint", None), getattr(route, "app", None)):
            return getattr(route, "path_format", None)
    return getattr(routed.get("route"), "path", None)


def _trace_id(traceparent: str | None) -> str | None:
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)

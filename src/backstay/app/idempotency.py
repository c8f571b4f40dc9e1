"""Idempotency keys: a request that comes again gets the answer of the first one, and has no second effect.

docs/decisions/0007-idempotency.md says why the key lives in the transaction of the effect.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from datetime import timedelta
from typing import Any, Final
from weakref import WeakValueDictionary

from fastapi import Depends
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from backstay import events
from backstay.app._principals import find_owner
from backstay.app.conditions import Condition
from backstay.app.dependencies import find_unit
from backstay.db import AsyncSession
from backstay.db.records import KeyRecords, RequestKey, StoredResponse
from backstay.errors import BadRequestError, KeyInUseError, KeyReusedError, UsageError
from backstay.security import Principal

__all__ = [
    "KEY_HEADER",
    "REPLAYED_HEADER",
    "Claim",
    "KeyTurns",
    "ReplayedError",
    "allow_key",
    "demand_key",
    "idempotent",
]

KEY_HEADER: Final = "Idempotency-Key"
REPLAYED_HEADER: Final = "Idempotency-Replayed"

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_LONGEST_OWNER: Final = 200
_LARGEST_BODY_BYTES: Final = 1024 * 1024
# What describes the answer. Cookies and whatever else is meant for one request are not given again.
_STORED_HEADERS: Final = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-location",
        "content-type",
        "etag",
        "expires",
        "last-modified",
        "link",
        "location",
        "retry-after",
        "vary",
    }
)


class ReplayedError(Exception):
    """Unwinds the app because the request was answered before; what surrounds the app sends that answer."""

    def __init__(self, stored: StoredResponse) -> None:
        super().__init__(stored.status)
        self._stored = stored

    def response(self) -> Response:
        """Return the stored answer, marked as such."""
        response = Response(self._stored.body, self._stored.status)
        for name, value in self._stored.headers:
            response.headers.append(name, value)
        response.headers[REPLAYED_HEADER] = "true"
        return response


class KeyTurns:
    """Lets the requests of this process that have the same key wait for each other here.

    Here they hold no connection; in the database a few who come again and again would hold all of them.

    Args:
        wait: For how long.
    """

    def __init__(self, wait: timedelta) -> None:
        self._wait = wait.total_seconds()
        self._locks: WeakValueDictionary[RequestKey, asyncio.Lock] = WeakValueDictionary()

    async def take(self, key: RequestKey) -> asyncio.Lock:
        """Return the turn once it has come; whoever has it releases it.

        Raises:
            KeyInUseError: It did not come in time.
        """
        turn = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with asyncio.timeout(self._wait):
                await turn.acquire()
        except TimeoutError:
            raise KeyInUseError from None
        return turn


class Claim:
    """The hold of a request on its key, until its answer is stored in the same transaction."""

    __slots__ = ("_body", "_key", "_records", "_session", "_start")

    def __init__(self, records: KeyRecords, session: AsyncSession, key: RequestKey) -> None:
        self._records = records
        self._session = session
        self._key = key
        self._start: Message = {}
        self._body = bytearray()

    def gather(self, message: Message) -> list[Message] | None:
        """Take the next message of the response; return all of it, as two messages, when it is whole.

        Raises:
            UsageError: It cannot be stored: it is a stream, or has a body over 1 MiB.
        """
        if message["type"] == "http.response.start":
            self._start = message
            return None
        is_whole = not message.get("more_body", False)
        if message["type"] != "http.response.body" or (not is_whole and not self._has_length):
            raise UsageError("An idempotent route cannot answer with a stream: there is no whole to store.")
        self._body += message.get("body", b"")
        if len(self._body) > _LARGEST_BODY_BYTES:
            raise UsageError(f"An idempotent route answers with {_LARGEST_BODY_BYTES} bytes at the most.")
        return [self._start, {"type": message["type"], "body": bytes(self._body)}] if is_whole else None

    @property
    def _has_length(self) -> bool:
        # What passed through a middleware of Starlette comes in pieces, and says how long it is.
        return "content-length" in Headers(raw=self._start.get("headers", []))

    async def store(self, messages: list[Message], condition: Condition | None) -> list[Message]:
        """Store the whole answer, and return it with its ETag."""
        await self._session.flush()  # counts the version that the ETag names
        if condition is not None:
            messages = await _tag(messages, condition)
        start, body = messages
        headers = tuple(
            pair for pair in MutableHeaders(raw=start["headers"]).items() if pair[0] in _STORED_HEADERS
        )
        answer = StoredResponse(start["status"], headers, body["body"])
        await self._records.store(self._session, self._key, answer)
        return messages


async def _tag(messages: list[Message], condition: Condition) -> list[Message]:
    tagged: list[Message] = []

    async def take(message: Message) -> None:
        tagged.append(message)

    for message in messages:
        await condition.send(message, take)
    return tagged


async def demand_key(request: Request) -> None:
    """Claim the key of a request that has to have one."""
    await _claim(request, is_required=True)


async def allow_key(request: Request) -> None:
    """Claim the key of a request that has one."""
    await _claim(request, is_required=False)


def idempotent(*, required: bool = True) -> Any:
    """Mark a POST or PATCH route, in `dependencies=[idempotent()]`: each `Idempotency-Key` has one effect.

    The first request with a key does the work; its answer is stored in the transaction of its effect. Whoever
    sends the same request again gets that answer, with `Idempotency-Replayed: true`, for as long as
    `idempotency.keep`. An error, which rolls back, is not stored: the key is free again. Mark only routes
    that change nothing but the database, and put what checks the caller before the marker.

    Args:
        required: Whether a request without a key is refused with 400; else it runs as if not marked.
    """
    return Depends(demand_key if required else allow_key)


async def _claim(request: Request, *, is_required: bool) -> None:
    key = _read_key(request)
    if key is None and is_required:
        raise BadRequestError(f"Send the header {KEY_HEADER} with a value that is new for each change.")
    unit = find_unit(request)
    exchange = request.scope["backstay.exchange"]
    if key is None or exchange.claim is not None:
        return
    owner = await find_owner(request)
    session = unit.session(request.scope)
    owned = RequestKey(_name_owner(owner), request.method, exchange.route or request.scope["path"], key)
    fingerprint = await _fingerprint(request)
    stored = await _find_answer(exchange, session, owned, fingerprint)
    if stored is not None:
        exchange.stop(ReplayedError(stored))
    exchange.claim = Claim(exchange.key_records, session, owned)


def _name_owner(owner: Principal | None) -> str:
    """Return whose key it is: nobody's in particular, or the caller's."""
    if owner is None:
        return ""
    return (
        owner.subject
        if len(owner.subject) <= _LONGEST_OWNER
        else hashlib.sha256(owner.subject.encode()).hexdigest()
    )


def _read_key(request: Request) -> str | None:
    lines = request.headers.getlist(KEY_HEADER)
    if not lines:
        return None
    if len(lines) > 1 or _KEY.fullmatch(lines[0]) is None:
        raise BadRequestError(
            f"{KEY_HEADER} is one value of 1 to 255 printable ASCII characters, without spaces."
        )
    return lines[0]


async def _find_answer(
    exchange: Any, session: AsyncSession, key: RequestKey, fingerprint: str
) -> StoredResponse | None:
    records: KeyRecords = exchange.key_records
    try:
        exchange.turn = await exchange.key_turns.take(key)
        stored = await records.claim(session, key, fingerprint=fingerprint)
    except KeyInUseError:
        _tell(key, "in_use")
        raise
    except KeyReusedError:
        _tell(key, "reused")
        raise
    if stored is not None:
        _tell(key, "replayed")
    return stored


def _tell(key: RequestKey, outcome: events.KeyOutcome) -> None:
    if events.is_watched(events.IdempotencyKeyMet):
        events.emit(events.IdempotencyKeyMet(route=key.route, outcome=outcome))


async def _fingerprint(request: Request) -> str:
    """Return what tells two requests apart, as 64 characters."""
    parts = (
        request.method.encode(),
        request.scope["path"].encode(errors="surrogatepass"),
        request.scope.get("query_string", b""),
        request.headers.get("content-type", "").encode(),
        await _read_body(request),
    )
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


async def _read_body(request: Request) -> bytes:
    inbox = request.scope["backstay.exchange"].inbox
    if inbox.can_replay and inbox.is_read:
        body: bytes = inbox.body
        return body
    try:
        return await request.body()
    except RuntimeError:  # a form was read from it, and its bytes are gone
        raise HTTPException(413) from None

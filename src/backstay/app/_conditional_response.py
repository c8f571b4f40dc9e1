"""The end of a conditional request: the ETag is made of the body, and a caller that has it gets a 304."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from backstay.app._entity_tags import EntityTags, tag_of_body, tag_of_version

__all__ = ["ConditionalResponse"]

# They describe a body, and a 304 has none (RFC 9110, 15.4.5). All others go along, as Vary does.
_OF_THE_BODY = ("content-type", "content-length", "content-encoding", "content-language", "content-range")


class ConditionalResponse:
    """Passes a response on: its first message waits for the body, of which its ETag is made.

    Args:
        method: The method of the request.
        version: The version that the response shows; None for a response that gets no tag of ours.
        known: The tags of what the caller has, from `If-None-Match`.
    """

    __slots__ = ("_held", "_is_cut", "_is_safe", "_known", "_method", "_version")

    def __init__(self, *, method: str, version: int | None, known: EntityTags | None) -> None:
        self._method = method
        self._is_safe = method in {"GET", "HEAD"}
        self._version = version
        self._known = known
        self._held: Message | None = None
        self._is_cut = False

    async def send(self, message: Message, send: Send) -> None:
        """Take the next message of the app."""
        if message["type"] == "http.response.start":
            self._held = message
            return
        start, self._held = self._held, None
        if self._is_cut:
            return
        if start is not None:
            headers = MutableHeaders(raw=start.setdefault("headers", []))
            self._tag(headers, start["status"], message)
            if self._is_known(headers, start["status"]):
                start, message = _not_modified(start, headers), {"type": "http.response.body"}
                self._is_cut = True
            await send(start)
        await send(message)

    def _tag(self, headers: MutableHeaders, status: int, message: Message) -> None:
        """Add the ETag, unless the route brought its own."""
        if not 200 <= status < 300 or self._version is None or self._method == "DELETE":
            return
        # The digest of a piece would say nothing about the rest.
        is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        body = message.get("body", b"")
        if is_whole and body:
            headers.setdefault("etag", tag_of_body(self._version, body))
        elif is_whole and not self._is_safe:
            headers.setdefault("etag", tag_of_version(self._version))
        if self._is_safe and "etag" in headers:
            # Without it a cache may take any time it likes for fresh.
            headers.setdefault("cache-control", "no-cache")

    def _is_known(self, headers: MutableHeaders, status: int) -> bool:
        tag = headers.get("etag")
        return (
            self._is_safe
            and 200 <= status < 300
            and tag is not None
            and self._known is not None
            and self._known.name_tag(tag)
        )


def _not_modified(start: Message, headers: MutableHeaders) -> Message:
    for name in _OF_THE_BODY:
        del headers[name]
    return {**start, "status": 304, "headers": headers.raw}

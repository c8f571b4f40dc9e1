"""A caller on a keep-alive connection that sends bytes as they are, and times each answer."""

import json
import socket
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_network
from time import perf_counter
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from .corpus import Hostile

_PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: str
    media_type: str
    body: bytes
    has_body: bool
    """Whether a body belongs to it: HEAD has none."""
    seconds: float

    @property
    def problem(self) -> dict[str, Any]:
        """The document of an error."""
        document: dict[str, Any] = json.loads(self.body)
        return document


class Caller:
    """One connection, opened again only when the server said that it would close the last one.

    Each request comes from an address of its own, as a proxy on this machine tells: no limit on how often
    one may try hides what the routes answer.
    """

    def __init__(self, url: str, *, token: str | None = None) -> None:
        address = urlsplit(url)
        self._address = (address.hostname or "", address.port or 80)
        self._credentials = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._origins = ip_network("10.0.0.0/8").hosts()
        self._socket: socket.socket | None = None
        self.lost: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def send(self, request: Hostile) -> Answer | None:
        """Return the answer; None, and one more in `lost`, when the connection breaks off without one."""
        connection = self._socket = self._socket or socket.create_connection(self._address, _PATIENCE_SECONDS)
        headers = {"X-Forwarded-For": str(next(self._origins)), **self._credentials}
        began = perf_counter()
        try:
            connection.sendall(request.encode(**headers))
            response = HTTPResponse(connection, method=request.method)
            response.begin()
            body = response.read()
        except (OSError, HTTPException):
            self._close()
            self.lost.append(request.name)
            return None
        seconds = perf_counter() - began
        if response.will_close:
            self._close()
        media_type = response.headers.get_content_type()
        return Answer(
            response.status, str(response.headers), media_type, body, request.method != "HEAD", seconds
        )

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

"""Calls to URLs that somebody else wrote: to public addresses only, and to the address that was checked.

A name is looked up once, all its addresses are checked, and the connection goes to one of them: a name that
means another machine a moment later has no second chance. Redirects come through here too.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import httpcore2
import httpx2
from httpx2 import AsyncBaseTransport, AsyncByteStream, Request, Response

from backstay.clients._addresses import is_public
from backstay.clients._errors import CallRefusedError

__all__ = ["CheckedNetwork", "GuardedTransport"]

Resolve = Callable[[str, int], Awaitable[list[str]]]


async def _look_up(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses, and to nothing else.

    Args:
        client: The name of the client.
        resolve: Returns the addresses of a name.
        network: What connects.
    """

    def __init__(
        self,
        client: str,
        *,
        resolve: Resolve = _look_up,
        network: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        self._client = client
        self._resolve = resolve
        self._network = network or httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the signature of what it stands for
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to a name whose addresses are all public.

        Raises:
            CallRefusedError: One of them is not.
        """
        ends_at = None if timeout is None else asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(ends_at):
                return await self._connect(host, port, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("The connection took too long.") from error

    async def _connect(self, host: str, port: int, *options: Any) -> httpcore2.AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectError("The name has no address.")
        for address in await self._check(host, port):
            try:
                return await self._network.connect_tcp(address, port, None, *options)
            except httpcore2.ConnectError as error:
                failure = error
        raise failure

    async def _check(self, host: str, port: int) -> list[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError("The name cannot be looked up.") from error
        if not all(map(is_public, addresses)):
            raise CallRefusedError(self._client, "the URL leads to an address that is not public")
        return addresses

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  the signature of what it stands for
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Refuse: a socket in the file system is not public."""
        raise CallRefusedError(self._client, "a socket in the file system is not public")


class GuardedTransport(AsyncBaseTransport):
    """HTTP over TLS to public addresses; HTTPX's own transport cannot be told where to connect.

    Args:
        client: The name of the client.
        context: How certificates are checked.
        keepalive: So many connections are kept for later.
        network: What connects.
    """

    def __init__(
        self,
        client: str,
        *,
        context: ssl.SSLContext,
        keepalive: int,
        network: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        self._client = client
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            max_connections=None,
            max_keepalive_connections=keepalive,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=network or CheckedNetwork(client),
        )

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request, if it is https."""
        if request.url.scheme != "https":
            raise CallRefusedError(self._client, "the URL is not https")
        with _named_as_in_httpx():
            response = await self._pool.handle_async_request(_to_core(request))
        return Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


_KEEPALIVE_SECONDS: Final = 5.0


def _to_core(request: Request) -> httpcore2.Request:
    body = cast("AsyncByteStream", request.stream)  # HTTPX lets an asynchronous client send no other
    url = httpcore2.URL(
        scheme=request.url.raw_scheme,
        host=request.url.raw_host,
        port=request.url.port,
        target=request.url.raw_path,
    )
    return httpcore2.Request(
        request.method, url, headers=request.headers.raw, content=body, extensions=request.extensions
    )


class _Body(AsyncByteStream):
    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _named_as_in_httpx():
            async for chunk in self._response.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


@contextmanager
def _named_as_in_httpx() -> Iterator[None]:
    """Raise HTTPX's errors for those of its core, which have the same names."""
    try:
        yield
    except Exception as error:
        kind = next((kind for kind in type(error).__mro__ if kind.__module__.startswith("httpcore2")), None)
        if kind is None:
            raise
        raise getattr(httpx2, kind.__name__)(str(error)) from error

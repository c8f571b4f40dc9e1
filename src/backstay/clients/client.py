"""A client of another service: a real `AsyncClient`, made of one transport for each concern.

From the outside in, each around the next:

    observation    one log line and one event; errors that know their answer
    deadline       one limit for the whole call
    context        request id and trace
    retries        what is safe, within a budget
    breakers       no calls to a host that does not answer
    concurrency    so many at once
    answers        unpacked, and no longer than allowed
    return         connections go back to their pool whole
    time left      for the other side to know, if it is to
    connections    HTTPX's own transport; for URLs of others a guarded one
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypedDict, Unpack

import httpx2
from httpx2 import AsyncBaseTransport, AsyncClient, AsyncHTTPTransport, Limits, Timeout
from pydantic import SecretStr, ValidationError

from backstay.clients._answers import AnswerLayer
from backstay.clients._breakers import BreakerLayer
from backstay.clients._concurrency import ConcurrencyLayer
from backstay.clients._connections import ReturnLayer
from backstay.clients._context import ContextHeaders, ContextLayer
from backstay.clients._deadline import DeadlineLayer
from backstay.clients._guard import GuardedTransport
from backstay.clients._observation import ObservationLayer
from backstay.clients._retries import RetryLayer
from backstay.clients._time_left import TimeLeftLayer
from backstay.errors import ConfigurationError
from backstay.settings import ClientSettings

__all__ = ["ClientOptions", "build_client", "create_client"]

_NOWHERE = "https://nowhere.invalid"


class ClientOptions(TypedDict, total=False):
    """How a client behaves; `backstay.settings.ClientSettings` has the defaults and the meanings."""

    connect_timeout: timedelta
    read_timeout: timedelta
    write_timeout: timedelta
    pool_timeout: timedelta
    timeout: timedelta
    max_response_bytes: int
    concurrency: int
    retries: int
    user_agent: str
    proxy: SecretStr


def _no_headers() -> Mapping[str, str]:
    return {}


def create_client(
    name: str,
    *,
    base_url: str = "",
    public_only: bool = False,
    context_headers: ContextHeaders = _no_headers,
    transport: AsyncBaseTransport | None = None,
    **options: Unpack[ClientOptions],
) -> AsyncClient:
    """Return a client whose calls end in time, are tried again when that is safe, and overload nobody.

    Make one for the life of the process, and close it: `async with create_client(...) as client`. Clients
    that the settings name are made and closed by the service. What a call raises is an `UpstreamError`, and
    one of HTTPX's own errors at the same time.

    Args:
        name: What it is called in logs, metrics and errors.
        base_url: What paths are added to; without one each call names a whole URL.
        public_only: For URLs that users supply: https only, and only to public addresses.
        context_headers: Returns the headers that each call passes on to the host of `base_url`.
        transport: What sends, instead of connections of its own; for tests, or an ASGI app.
        **options: The settings of `backstay.settings.ClientSettings`, by name.

    Raises:
        ConfigurationError: An option is wrong.
    """
    try:
        settings = ClientSettings(base_url=base_url or _NOWHERE, **options)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        option = ".".join(map(str, wrong["loc"]))
        raise ConfigurationError(f"`{option}` of the client {name!r}: {wrong['msg']}.") from None
    if public_only and settings.proxy is not None:
        raise ConfigurationError(
            f"The client {name!r} has a proxy and is `public_only`: a proxy looks names up itself, unchecked."
        )
    connect = _connect_to_public if public_only else _connect
    return build_client(
        name,
        settings,
        context_headers=context_headers,
        transport=transport or connect(name, settings),
        base_url=base_url,
    )


def build_client(  # noqa: PLR0913  each but two with a default
    name: str,
    settings: ClientSettings,
    *,
    context_headers: ContextHeaders,
    transport: AsyncBaseTransport | None = None,
    base_url: str | None = None,
    deadline_header: str = "",
) -> AsyncClient:
    """Return the client that the settings describe; `create_client` says what it does.

    Args:
        name: What it is called.
        settings: How it behaves.
        context_headers: Returns the headers that each call passes on to its own host.
        transport: Instead of connections.
        base_url: Instead of the one that the settings name.
        deadline_header: In which it says how much time is left, if the settings want that; none when empty.
    """
    _keep_queries_out_of_logs()
    return AsyncClient(
        base_url=settings.base_url if base_url is None else base_url,
        transport=_wrap(
            _tell_time_left(transport or _connect(name, settings), settings, deadline_header),
            name,
            settings,
            context_headers,
        ),
        timeout=Timeout(
            connect=settings.connect_timeout.total_seconds(),
            read=settings.read_timeout.total_seconds(),
            write=settings.write_timeout.total_seconds(),
            pool=settings.pool_timeout.total_seconds(),
        ),
        headers={"User-Agent": settings.user_agent or "backstay"},
        cookies=_keep_no_cookies(),
    )


def _tell_time_left(
    transport: AsyncBaseTransport, settings: ClientSettings, header: str
) -> AsyncBaseTransport:
    if not settings.pass_deadline or not header:
        return transport
    return TimeLeftLayer(transport, base_url=settings.base_url, header=header)


def _wrap(
    transport: AsyncBaseTransport, name: str, settings: ClientSettings, context_headers: ContextHeaders
) -> AsyncBaseTransport:
    patience = min(settings.timeout, settings.read_timeout)
    layers: tuple[Callable[[AsyncBaseTransport], AsyncBaseTransport], ...] = (
        ReturnLayer,
        lambda inner: AnswerLayer(inner, name, most_bytes=settings.max_response_bytes),
        lambda inner: ConcurrencyLayer(inner, name, limit=settings.concurrency, wait=settings.pool_timeout),
        lambda inner: BreakerLayer(inner, name, patience=patience),
        lambda inner: RetryLayer(inner, retries=settings.retries),
        lambda inner: ContextLayer(inner, base_url=settings.base_url, headers=context_headers),
        lambda inner: DeadlineLayer(inner, name, timeout=settings.timeout),
        lambda inner: ObservationLayer(inner, name),
    )
    for wrap in layers:
        transport = wrap(transport)
    return transport


def _connect(name: str, settings: ClientSettings) -> AsyncBaseTransport:
    # The layer above limits what is under way: a queue of the pool's own would be a second one.
    limits = Limits(max_connections=None, max_keepalive_connections=settings.concurrency)
    proxy = None if settings.proxy is None else settings.proxy.get_secret_value()
    return AsyncHTTPTransport(verify=_tls_context(), limits=limits, proxy=proxy)


def _connect_to_public(name: str, settings: ClientSettings) -> AsyncBaseTransport:
    return GuardedTransport(name, context=_tls_context(), keepalive=settings.concurrency)


def _keep_no_cookies() -> CookieJar:
    # A client serves many callers: what one of them is given must not be sent for another.
    return CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))


@cache
def _tls_context() -> ssl.SSLContext:
    # Reading the certificates takes some 30 ms: once is enough.
    return httpx2.create_ssl_context()


def _keep_queries_out_of_logs() -> None:
    # HTTPX writes a line of its own for each request, with the whole URL.
    logger = logging.getLogger("httpx2")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)

"""The clients that the settings name, and what their calls tell about the request that they are made for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.datastructures import Headers

from backstay.app._in_flight import current_exchange
from backstay.clients import AsyncClient, build_client
from backstay.settings import Settings
from backstay.telemetry.traces import trace_headers

__all__ = ["context_headers", "open_clients"]


@asynccontextmanager
async def open_clients(settings: Settings) -> AsyncIterator[Mapping[str, AsyncClient]]:
    """Open the clients that the settings name, for the time of the block."""
    header = settings.http.request_id_header
    async with AsyncExitStack() as stack:
        clients: dict[str, AsyncClient] = {}
        for name, own in settings.clients.items():
            named = own.model_copy(update={"user_agent": own.user_agent or settings.name})
            client = build_client(
                name,
                named,
                context_headers=lambda: context_headers(header),
                deadline_header=settings.http.deadline_header,
            )
            clients[name] = await stack.enter_async_context(client)
        yield clients


def context_headers(request_id_header: str) -> dict[str, str]:
    """Return the headers with the id of the current request, if there is one, and with its trace.

    A service that makes no spans passes on what came in, as W3C's Trace Context has it.
    """
    exchange = current_exchange.get()
    if exchange is None:
        return trace_headers()
    headers = {request_id_header: exchange.request_id}
    given = Headers(scope=exchange.scope)
    if exchange.trace_id is not None:
        headers |= {name: given[name] for name in ("traceparent", "tracestate") if name in given}
    return headers | trace_headers()

"""Clients of other services in a handler.

@router.get("/prices", dependencies=[public])
async def read_prices(rates: Annotated[AsyncClient, client("rates")]) -> list[Rate]:
return await fetch(rates, "GET", "/rates", returns=list[Rate])
"""

from __future__ import annotations

from typing import Unpack

from fastapi.params import Depends

from backstay.app._named_clients import NamedClient
from backstay.app._outbound import context_headers
from backstay.app.runtime import runtime_variable
from backstay.clients import AsyncClient, ClientOptions
from backstay.clients import create_client as create_bare_client

__all__ = ["client", "create_client"]

_DEFAULT_HEADER = "X-Request-ID"


def client(name: str) -> Depends:
    """Return what gives a handler the client that the settings have under this name.

        rates: Annotated[AsyncClient, client("rates")]

    `SHOP_CLIENTS__RATES__BASE_URL` says where it is. An app with a route that asks for an unknown name does
    not start. Elsewhere it is `current_runtime().client("rates")`.
    """
    return Depends(NamedClient(name))


def create_client(
    name: str, *, base_url: str = "", public_only: bool = False, **options: Unpack[ClientOptions]
) -> AsyncClient:
    """Return a client of your own; it passes on the id and the trace of the request that it is used in.

    Make one for the life of the process, and close it. `backstay.clients.create_client` says what it does.

    Args:
        name: What it is called in logs, metrics and errors.
        base_url: What paths are added to; without one each call names a whole URL.
        public_only: For URLs that users supply: https only, and only to public addresses.
        **options: The settings of `backstay.settings.ClientSettings`, by name.

    Raises:
        ConfigurationError: An option is wrong.
    """
    return create_bare_client(
        name, base_url=base_url, public_only=public_only, context_headers=_read_context, **options
    )


def _read_context() -> dict[str, str]:
    runtime = runtime_variable.get()
    return context_headers(_DEFAULT_HEADER if runtime is None else runtime.settings.http.request_id_header)

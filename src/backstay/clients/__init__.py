"""Calls to other services over HTTP: in time, tried again when that is safe, observed.

    async with create_client("rates", base_url="https://rates.example/v1") as rates:
        current = await fetch(rates, "GET", "/rates", returns=list[Rate])

docs/decisions/0010-outbound-http.md says what each part does, and what it leaves alone.
"""

from httpx2 import AsyncClient

from backstay.clients._context import ContextHeaders
from backstay.clients.client import ClientOptions, build_client, create_client
from backstay.clients.fetching import fetch

__all__ = ["AsyncClient", "ClientOptions", "ContextHeaders", "build_client", "create_client", "fetch"]

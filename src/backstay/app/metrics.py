"""`/metrics`, where Prometheus fetches what the service counts."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from backstay.app.observation import Observation
from backstay.errors import UnauthenticatedError

__all__ = ["METRICS_PATH", "add_metrics"]

METRICS_PATH: Final = "/metrics"


def add_metrics(app: FastAPI, observation: Callable[[], Observation | None]) -> None:
    """Add `/metrics` to `app`, outside of its OpenAPI schema; 404 where metrics are off.

    Args:
        app: The app to add the route to.
        observation: Returns what observes the running service.
    """

    async def metrics(request: Request) -> Response:
        observing = observation()
        if observing is None or observing.metrics is None:
            raise HTTPException(404)
        _authenticate(request, observing.metrics_token)
        observing.show()
        # In a thread: with several workers this reads their files.
        content, media_type = await asyncio.to_thread(
            observing.metrics.render, request.headers.get("accept", "")
        )
        return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    app.add_route(METRICS_PATH, metrics, methods=["GET"], include_in_schema=False)


def _authenticate(request: Request, token: str | None) -> None:
    if token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # In constant time, and as bytes: a header may hold anything.
    is_right = hmac.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not is_right:
        raise UnauthenticatedError(
            "The metrics need the bearer token of this service.", headers={"WWW-Authenticate": "Bearer"}
        )

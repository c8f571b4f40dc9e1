"""Two questions an orchestrator asks: is the process alive, and may it be sent requests.

`/livez` answers as long as the event loop turns, and asks nothing else: a database that is down is no reason
to restart every service that uses it. `/readyz` asks the service's checks.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Final

import anyio
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from backstay import json
from backstay.app.problems import PROBLEM_MEDIA_TYPE, Problem

__all__ = ["HealthCheck", "add_health"]

_NO_STORE: Final = {"Cache-Control": "no-store"}
_logger = logging.getLogger("backstay.app")


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Something that has to work before this process is sent requests."""

    name: str
    """Shown to whoever asks; no host names or other internals."""
    call: Callable[[], Awaitable[object]]
    """Raises when it does not work; what it returns is not looked at."""
    timeout: timedelta = timedelta(seconds=2)


def add_health(
    app: FastAPI,
    checks: Callable[[], Sequence[HealthCheck]],
    *,
    is_draining: Callable[[], bool] = lambda: False,
    max_age: timedelta = timedelta(seconds=1),
) -> None:
    """Add `/livez` and `/readyz` to `app`, outside of its OpenAPI schema.

    Args:
        app: The app to add the routes to.
        checks: Returns what to ask; called anew each time, so that checks can come from the running service.
        is_draining: Whether the process is stopping and wants no new requests.
        max_age: How long the outcome of the checks is used again, so that asking loads no database.
    """
    readiness = _Readiness(checks, max_age=max_age)

    async def livez(_: Request) -> Response:
        return _answer({"alive": True})

    async def readyz(request: Request) -> Response:
        if is_draining():
            return _not_ready(request, "The service is stopping.", [])
        outcomes = await readiness.ask()
        if all(outcome.is_ok for outcome in outcomes):
            return _answer({"ready": True, "checks": _listed(outcomes)})
        return _not_ready(request, "A check failed.", outcomes)

    app.add_route("/livez", livez, methods=["GET"], include_in_schema=False)
    app.add_route("/readyz", readyz, methods=["GET"], include_in_schema=False)


@dataclass(frozen=True, slots=True)
class _Outcome:
    name: str
    is_ok: bool


class _Readiness:
    """Asks the checks, at most once at a time and at most once per `max_age`."""

    def __init__(self, checks: Callable[[], Sequence[HealthCheck]], *, max_age: timedelta) -> None:
        self._checks = checks
        self._max_age_seconds = max_age.total_seconds()
        self._asking = anyio.Lock()
        self._outcomes: list[_Outcome] = []
        self._asked_at: float | None = None

    async def ask(self) -> list[_Outcome]:
        async with self._asking:
            if self._asked_at is None or monotonic() - self._asked_at >= self._max_age_seconds:
                self._outcomes = await _ask_all(self._checks())
                self._asked_at = monotonic()
            return self._outcomes


async def _ask_all(checks: Sequence[HealthCheck]) -> list[_Outcome]:
    outcomes: dict[int, _Outcome] = {}

    async def ask(position: int, check: HealthCheck) -> None:
        outcomes[position] = _Outcome(check.name, is_ok=await _works(check))

    async with anyio.create_task_group() as tasks:
        for position, check in enumerate(checks):
            tasks.start_soon(ask, position, check)
    return [outcomes[position] for position in range(len(checks))]


async def _works(check: HealthCheck) -> bool:
    try:
        with anyio.fail_after(check.timeout.total_seconds()):
            await check.call()
    except Exception:
        _logger.warning("The health check %r failed.", check.name, exc_info=True)
        return False
    return True


def _listed(outcomes: Sequence[_Outcome]) -> list[dict[str, object]]:
    return [{"name": outcome.name, "ok": outcome.is_ok} for outcome in outcomes]


def _answer(content: dict[str, object]) -> Response:
    return Response(json.dumps(content), media_type="application/json", headers=_NO_STORE)


def _not_ready(request: Request, detail: str, outcomes: Sequence[_Outcome]) -> Response:
    problem = Problem(
        title="Service Unavailable",
        status=503,
        detail=detail,
        code="not_ready",
        request_id=request.scope.get("backstay.request_id"),
        ready=False,
        checks=_listed(outcomes),
    )
    body = json.dumps(problem.model_dump(exclude_none=True))
    return Response(body, status_code=503, media_type=PROBLEM_MEDIA_TYPE, headers=_NO_STORE)

"""The matrix test of who owns what: each route with an id, called by somebody whose row it is not.

    async def test_nobody_reaches_what_is_not_theirs(ownership_check: OwnershipCheck, ...) -> None:
        await ownership_check(owner=ada_headers, stranger=eve_headers, ids={"order_id": order.id})

A route that is added later is in the matrix, or the test fails until its ids are there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    # Named in annotations only: a test that needs no app does not pay for importing these.
    from fastapi import FastAPI
    from httpx2 import AsyncClient

__all__ = ["OwnershipCheck"]

_PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
_ORDER: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class _Case:
    method: str
    path: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def fill(self, ids: Mapping[str, object]) -> str:
        return _PARAMETER.sub(lambda found: quote(str(ids[found[1]]), safe=""), self.path)


class OwnershipCheck:
    """Calls each route with an id as its owner and as somebody else; what `ownership_check` returns.

    Args:
        app: The app with its routes.
        client: Calls it.
    """

    def __init__(self, app: FastAPI, client: AsyncClient) -> None:
        self._app = app
        self._client = client

    async def __call__(
        self,
        *,
        owner: Mapping[str, str],
        stranger: Mapping[str, str],
        ids: Mapping[str, object],
        bodies: Mapping[str, object] | None = None,
        shared: Collection[str] = (),
    ) -> None:
        """Fail the test when a stranger gets another answer than for a row that does not exist.

        First the stranger calls every route, then the owner, who has to be answered otherwise; what removes
        rows comes last.

        Args:
            owner: The headers that the rows' owner calls with.
            stranger: The headers of somebody else.
            ids: By the name of the path parameter, the rows of the owner.
            bodies: By `PATCH /orders/{order_id}`, what the routes that take a body are sent as JSON.
            shared: Routes with an id that are for all callers, such as `GET /products/{product_id}`.
        """
        cases = [case for case in _list_cases(self._app) if str(case) not in shared]
        _require_ids(cases, ids)
        bodies = bodies or {}
        let_in = [case for case in cases if await self._ask(case, stranger, ids, bodies) != 404]
        blind = [case for case in cases if await self._ask(case, owner, ids, bodies) in {401, 403, 404, 422}]
        if problems := [*_tell(let_in, _LET_IN), *_tell(blind, _BLIND)]:
            pytest.fail("\n".join(problems), pytrace=False)

    async def _ask(
        self, case: _Case, headers: Mapping[str, str], ids: Mapping[str, object], bodies: Mapping[str, object]
    ) -> int:
        body: dict[str, Any] = {"json": bodies[str(case)]} if str(case) in bodies else {}
        sent = {"If-Match": "*", **headers}
        answer = await self._client.request(case.method, case.fill(ids), headers=sent, **body)
        return answer.status_code


_LET_IN: Final = "answers a stranger, and not with 404"
_BLIND: Final = "does not let the owner in, so that it shows nothing: give it an id, a body or a scope"


def _tell(cases: list[_Case], what: str) -> list[str]:
    return [f"{case} {what}." for case in cases]


def _list_cases(app: FastAPI) -> list[_Case]:
    return sorted(_find_cases(app), key=lambda case: (_ORDER.index(case.method), case.path))


def _find_cases(app: FastAPI) -> Iterator[_Case]:
    from fastapi.routing import iter_route_contexts  # noqa: PLC0415  tests without an app do not pay

    from backstay.app._route_policies import list_calls, needs_principal  # noqa: PLC0415  as above

    for context in iter_route_contexts(list(app.routes)):
        path = context.path_format or ""
        names = tuple(_PARAMETER.findall(path))
        if names and needs_principal(list_calls(getattr(context, "dependant", None))):
            for method in context.methods or ():
                yield _Case(method, path, names)


def _require_ids(cases: list[_Case], ids: Mapping[str, object]) -> None:
    missing = [f"{case}: {name}" for case in cases for name in case.names if name not in ids]
    if missing:
        pytest.fail(
            "The matrix has no ids for these routes; give `ids` some, or name the route in `shared`:\n  "
            + "\n  ".join(missing),
            pytrace=False,
        )
    if not cases:
        pytest.fail("No route that knows its caller has an id: the matrix is empty.", pytrace=False)


@pytest.fixture
def ownership_check(app: FastAPI, client: AsyncClient) -> OwnershipCheck:
    """Return what calls each route with an id as its owner and as somebody else."""
    return OwnershipCheck(app, client)

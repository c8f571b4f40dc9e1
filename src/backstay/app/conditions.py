"""Conditional requests: send nothing that the caller has, and change nothing that it has not seen.

docs/decisions/0005-conditional-requests.md says what feeds the ETag, and why a 304 never hides a change.
"""

from __future__ import annotations

from typing import Annotated, Protocol, TypeVar

from fastapi import Depends
from starlette.requests import Request
from starlette.types import Message, Send

from backstay.app._conditional_response import ConditionalResponse
from backstay.app._entity_tags import EntityTags, MalformedTagsError, tag_of_version
from backstay.db import version_of
from backstay.errors import (
    AppError,
    BadRequestError,
    EditConflictError,
    PreconditionFailedError,
    PreconditionRequiredError,
    UsageError,
)

__all__ = ["Condition", "ConditionDep", "ETagDep", "IfMatchDep", "Versioned"]


class Versioned(Protocol):
    """Something that has a version: a row of a model with `VersionMixin`, or a schema made of one."""

    @property
    def version(self) -> int:
        """Rises with each change."""
        ...


V = TypeVar("V", bound=Versioned | None)


class Condition:
    """What a request says about the version that it is meant for; made by `ETagDep` and its relatives.

    Raises:
        BadRequestError: `If-Match` or `If-None-Match` holds no entity tags.
    """

    __slots__ = (
        "_if_match",
        "_if_none_match",
        "_is_checked",
        "_must_check",
        "_request",
        "_response",
        "_shown",
    )

    def __init__(self, request: Request) -> None:
        self._request = request
        self._if_match = _read(request, "If-Match")
        self._if_none_match = _read(request, "If-None-Match")
        self._shown: Versioned | None = None
        self._must_check = self._is_checked = False
        self._response: ConditionalResponse | None = None

    def tag(self, row: V) -> V:
        """Return the row, and let a success carry its ETag.

        A GET or HEAD whose `If-None-Match` names what it would be answered gets a 304 instead.

        Raises:
            PreconditionFailedError: A GET or HEAD has an `If-Match` that names another version.
        """
        if self._is_safe:
            self._demand_match(row)
        self._shown = row
        return row

    def check(self, row: V) -> V:
        """Return the row when it is in the version that the request is meant for; see `tag` for the rest.

        Call it before the row is changed. What another request changes between this and the commit is
        noticed by the database, and answered with 412 too.

        Args:
            row: What is stored; None when there is nothing yet, as in a PUT that may create it. Then any
                `If-Match` fails, and `If-None-Match: *` holds.

        Raises:
            PreconditionFailedError: It is in another version, or exists in one that `If-None-Match` rules
                out.
        """
        self._is_checked = True
        self._demand_match(row)
        if not self._is_safe:
            self._refuse_match(row)
        return self.tag(row)

    @property
    def _is_safe(self) -> bool:
        return self._request.method in {"GET", "HEAD"}

    def _demand_match(self, row: Versioned | None) -> None:
        wanted = self._if_match
        if wanted is None or (row is not None and wanted.name_version(row.version)):
            return
        if row is not None and wanted.weak and wanted.name_version_weakly(row.version):
            raise PreconditionFailedError(
                'A weak tag never satisfies If-Match; send it without "W/".', headers=_etag(row)
            )
        raise PreconditionFailedError(_CHANGED, headers=_etag(row))

    def _refuse_match(self, row: Versioned | None) -> None:
        refused = self._if_none_match
        if refused is not None and row is not None and refused.name_version_weakly(row.version):
            raise PreconditionFailedError(
                "It exists already, in a version that If-None-Match rules out.", headers=_etag(row)
            )

    # What surrounds the route calls these.

    def demand(self) -> None:
        """Insist on `If-Match`, and on a route that looks at it.

        Raises:
            PreconditionRequiredError: The request has none.
        """
        self._must_check = True
        if self._if_match is None:
            # A 428 must not be stored: RFC 6585, 3.
            raise PreconditionRequiredError(_REQUIRED, headers={"Cache-Control": "no-store"})

    def refuse_unchecked(self, status: int) -> None:
        """Do nothing unless a success is about to be sent that was never checked.

        Raises:
            UsageError: The route demands `If-Match` and did not look at it.
        """
        if self._must_check and not self._is_checked and status < 400:
            raise UsageError(
                "The route demands If-Match and never looks at it: call `if_match.check(row)` before the row "
                "is changed."
            )

    def explain(self, error: AppError | None) -> AppError | None:
        """Return what an error means for this request: a lost race breaks the promise of `If-Match`."""
        if isinstance(error, EditConflictError) and self._if_match is not None and not self._if_match.is_any:
            return PreconditionFailedError(_CHANGED)
        return error

    async def send(self, message: Message, send: Send) -> None:
        """Pass on a message of the response, with the ETag, or as part of a 304."""
        if self._response is None:
            self._response = ConditionalResponse(
                method=self._request.method,
                # Read now: the flush has counted the change.
                version=version_of(self._shown),
                known=self._if_none_match,
            )
        await self._response.send(message, send)


_CHANGED = "It has changed since you read it; read it again, then repeat the change."
_REQUIRED = 'Send the header If-Match with the ETag of what you have read, such as If-Match: "3".'


def _read(request: Request, name: str) -> EntityTags | None:
    lines = request.headers.getlist(name)
    if not lines:
        return None
    try:
        return EntityTags.read(lines)
    except MalformedTagsError:
        raise BadRequestError(
            f'The header {name} holds entity tags in double quotes, such as {name}: "3", or * alone.'
        ) from None


def _etag(row: Versioned | None) -> dict[str, str]:
    return {} if row is None else {"ETag": tag_of_version(row.version)}


def _condition(request: Request) -> Condition:
    exchange = request.scope.get("backstay.exchange")
    if exchange is None:
        raise UsageError("Conditional requests need an app made by `create_app` or `install`.")
    if exchange.condition is None:
        exchange.condition = Condition(request)
    condition: Condition = exchange.condition
    return condition


async def tag_response(request: Request) -> Condition:
    """Return the condition of a request whose response carries an ETag."""
    return _condition(request)


async def allow_condition(request: Request) -> Condition:
    """Return the condition of a request that may name a version."""
    return _condition(request)


async def demand_condition(request: Request) -> Condition:
    """Return the condition of a request that has to name a version."""
    condition = _condition(request)
    condition.demand()
    return condition


ETagDep = Annotated[Condition, Depends(tag_response)]
"""Gives a response its ETag: `return etag.tag(product)`.

A GET or HEAD that names it in `If-None-Match` is answered with 304.
"""

IfMatchDep = Annotated[Condition, Depends(demand_condition)]
"""Makes a route change only what its caller has read: `if_match.check(product)` before the change.

A request without `If-Match` is answered with 428, one that names another version with 412.
"""

ConditionDep = Annotated[Condition, Depends(allow_condition)]
"""Like `IfMatchDep`, for a route whose callers may leave `If-Match` out, or say `If-None-Match: *`."""

"""Answers as objects: `await fetch(client, "GET", "/rates", returns=list[Rate])`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, Final, TypedDict, TypeVar, Unpack, cast

from httpx2 import AsyncClient, Response
from pydantic import TypeAdapter, ValidationError

from backstay.clients._errors import typed_errors
from backstay.clients._observation import CLIENT_NAME
from backstay.errors import UpstreamAnswerError, UpstreamUnavailableError

__all__ = ["CallOptions", "fetch"]

T = TypeVar("T")

_OVERLOADED: Final = frozenset({429, 502, 503, 504})
_SHOWN_ERRORS: Final = 3


class CallOptions(TypedDict, total=False):
    """What a call carries.

    Attributes:
        params: The query.
        json: The body.
        headers: Headers of this call, such as `Idempotency-Key`.
    """

    params: Mapping[str, str | int | float | bool | None]
    json: object
    headers: dict[str, str]


async def fetch(
    client: AsyncClient, method: str, url: str, *, returns: type[T], **options: Unpack[CallOptions]
) -> T:
    """Return the answer to a call as `returns`, which may be anything that Pydantic validates.

    Args:
        client: Whom to ask; any `AsyncClient`.
        method: Such as `GET`.
        url: A path under the client's base URL, or a whole URL.
        returns: The type of the answer: `list[Rate]`.
        **options: `params`, `json` and `headers`, as HTTPX takes them.

    Raises:
        UpstreamAnswerError: The answer has an error status, which is `upstream_status`, or another shape.
        UpstreamUnavailableError: There was no connection, or the other side is overloaded.
        UpstreamTimeoutError: It took too long.
    """
    with typed_errors(client.base_url.host or "unnamed"):
        response = await client.request(method, url, **options)
    name = response.extensions.get(CLIENT_NAME) or response.url.host
    _refuse_error(response, name)
    try:
        return cast("T", _adapter(cast("Hashable", returns)).validate_json(response.content))
    except ValidationError as error:
        reason = f"the answer does not fit: {_summarize(error)}"
    # Outside of the block: the error of Pydantic holds the answer, and would be logged with this one.
    raise UpstreamAnswerError(name, reason, upstream_status=response.status_code)


def _refuse_error(response: Response, name: str) -> None:
    if response.is_success:
        return
    kind = UpstreamUnavailableError if response.status_code in _OVERLOADED else UpstreamAnswerError
    raise kind(name, f"it answered {response.status_code}", upstream_status=response.status_code)


@lru_cache(maxsize=256)
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("Any", kind))


def _summarize(error: ValidationError) -> str:
    """Return where it does not fit and why, without what is there."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    shown = [f"{'.'.join(map(str, one['loc'])) or 'all of it'} ({one['type']})" for one in found]
    rest = len(shown) - _SHOWN_ERRORS
    return ", ".join(shown[:_SHOWN_ERRORS]) + (f" and {rest} more" if rest > 0 else "")

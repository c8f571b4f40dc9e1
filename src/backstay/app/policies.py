"""Who may call a route: everybody, whoever is known, those with some scopes, or whom the service lets in.

Each route of an app that `create_app` made says so, or the app does not start. FastAPI reads the annotations
of what it calls, so they are no strings here. docs/decisions/0014-identity.md says why it is so.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi.params import Depends
from starlette.requests import HTTPConnection

from backstay.app._principals import identify, require_principal
from backstay.app._principals import require_scopes as demand_scopes
from backstay.errors import ConfigurationError
from backstay.security import Principal

__all__ = [
    "Guard",
    "OptionalPrincipalDep",
    "PrincipalDep",
    "ScopeCheck",
    "admit_everybody",
    "guarded_by",
    "public",
    "require_scopes",
]

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


async def admit_everybody() -> None:
    """Do nothing. A started app does not even call it: the marker has done its work when it was read."""


public: Final = Depends(admit_everybody)
"""Lets everybody call a route: `dependencies=[public]` on it, on its router, or on the app."""

PrincipalDep = Annotated[Principal, Depends(require_principal)]
"""Who calls, by a bearer token or an API key; without one, the answer is 401."""

OptionalPrincipalDep = Annotated[Principal | None, Depends(identify)]
"""Who calls, for a `public` route that shows more to those it knows; None when the request does not say."""


class ScopeCheck:
    """What FastAPI calls for a route that needs scopes.

    Attributes:
        scopes: All of them are needed.
    """

    def __init__(self, scopes: tuple[str, ...]) -> None:
        self.scopes = scopes

    async def __call__(self, connection: HTTPConnection) -> None:
        """Refuse a caller that has not all of them."""
        await demand_scopes(connection, self.scopes)


def require_scopes(*scopes: str) -> Depends:
    """Return a marker for routes whose callers need some scopes: `dependencies=[require_scopes("admin")]`.

    Who is not known is answered with 401, who lacks one with 403.

    Args:
        *scopes: All of them are needed.

    Raises:
        ConfigurationError: There is none, or one is no word that a token can carry.
    """
    if not scopes:
        raise ConfigurationError(
            "require_scopes() names no scope.", hint="Ask for `principal: PrincipalDep` to know who calls."
        )
    for scope in scopes:
        if _SCOPE.fullmatch(scope) is None:
            raise ConfigurationError(
                f"{scope!r} is no scope: it takes printable ASCII without spaces and quotes."
            )
    return Depends(ScopeCheck(tuple(dict.fromkeys(scopes))))


class Guard(Depends):
    """A dependency that decides who may call a route; made by `guarded_by`."""


def guarded_by(check: Callable[..., Any]) -> Guard:
    """Return a marker for routes whose callers are checked by the service itself.

        @router.post("/hooks/payments", dependencies=[guarded_by(verify_signature)])

    Args:
        check: A dependency, with parameters like any other. It raises `UnauthenticatedError` or
            `PermissionDeniedError`; what it returns is not looked at.
    """
    return Guard(check)

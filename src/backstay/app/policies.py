"""Who may call a route: everybody, or those whom a check of the service's own lets in.

Each route of an app that `create_app` made says so, or the app does not start. FastAPI reads the annotations
of what it calls, so they are no strings here. docs/decisions/0014-identity.md says why it is so.
"""

from collections.abc import Callable
from typing import Any, Final

from fastapi.params import Depends

__all__ = ["Guard", "admit_everybody", "guarded_by", "public"]


async def admit_everybody() -> None:
    """Do nothing. A started app does not even call it: the marker has done its work when it was read."""


public: Final = Depends(admit_everybody)
"""Lets everybody call a route: `dependencies=[public]` on it, on its router, or on the app."""


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

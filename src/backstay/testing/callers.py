"""Callers of the app that are known to it, without a password and a login for each test.

    async def test_only_admins_list_all(client: AsyncClient, authorize: Authorize) -> None:
        assert (await client.get("/users", headers=authorize("7"))).status_code == 403
        assert (await client.get("/users", headers=authorize("7", "admin"))).status_code == 200

The subject need not be anybody's: tokens tell who calls, and the app's own data whether there is such a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from backstay.errors import UsageError
from backstay.testing._project import find_installation

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Authorize"]


class Authorize(Protocol):
    """What the fixture `authorize` is."""

    def __call__(self, subject: object, *scopes: str) -> dict[str, str]:
        """Return the headers of a request by this subject, which may do what the scopes say."""
        ...


@pytest.fixture
def authorize(app: FastAPI) -> Authorize:
    """Return what makes the headers of a caller: a real access token, signed by the app's own key."""

    def make_headers(subject: object, *scopes: str) -> dict[str, str]:
        identity = find_installation(app).identity
        if identity is None:
            raise UsageError(
                "The app has no accounts, or has not started: a test that authorizes asks for `client` too."
            )
        issued = identity.tokens.issue(str(subject), client_id="tests", scopes=scopes)
        return {"Authorization": f"Bearer {issued.token.get_secret_value()}"}

    return make_headers

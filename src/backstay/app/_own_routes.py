"""The routes that an app has because of how its callers are known."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter

from backstay.app.accounts import Accounts
from backstay.app.installation import Installation

__all__ = ["add_identity"]


def add_identity(
    installation: Installation, accounts: Accounts | None, *, api_keys: bool
) -> Iterator[APIRouter]:
    """Let callers of the app be known, and return the routes that come with it.

    What hashes passwords and signs tokens takes long to import; an app without accounts does without.
    """
    if accounts is None and not api_keys:
        return
    from backstay.app._identity import IdentityOptions  # noqa: PLC0415  see above

    installation.identity_options = IdentityOptions(accounts, api_keys)
    if accounts is not None:
        from backstay.app._account_routes import make_account_router  # noqa: PLC0415  see above
        from backstay.app.oauth import make_oauth_router  # noqa: PLC0415  see above

        yield make_oauth_router()
        yield make_account_router()

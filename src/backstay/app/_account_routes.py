"""What the owner of an account does with its password and its address, over HTTP.

Errors are problem documents. Nothing here tells whether there is an account: who asks for a reset is answered
before anybody looks.
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import Field, SecretStr
from starlette.requests import Request
from starlette.responses import Response

from backstay.app._login_limits import count_confirmation, count_login, count_reset
from backstay.app._messages import send_reset, send_verification
from backstay.app._passwords import change_password, confirm_address, reset_password
from backstay.app._principals import identity_of
from backstay.app.policies import PrincipalDep, public
from backstay.app.schemas import InputSchema
from backstay.errors import PermissionDeniedError

__all__ = ["make_account_router"]

Responses = dict[int | str, dict[str, Any]]
_LIMITED: Final[Responses] = {429: {"description": "Too many attempts."}}
_TOKEN: Final[Responses] = {400: {"description": "The token is not valid, or no longer."}, **_LIMITED}
_OWN: Final[Responses] = {
    403: {"description": "The current password is wrong, or an API key asks."},
    **_LIMITED,
}

Secret = Annotated[SecretStr, Field(min_length=1, max_length=4096)]


class PasswordChange(InputSchema):
    """A password for the one that is known."""

    current_password: Secret
    new_password: Secret


class ResetRequest(InputSchema):
    """Who has forgotten a password."""

    login: Annotated[str, Field(min_length=1, max_length=320)]


class PasswordReset(InputSchema):
    """A password for the one that was forgotten."""

    token: Secret
    new_password: Secret


class AddressVerification(InputSchema):
    """What a message to the address brought."""

    token: Secret


def make_account_router() -> APIRouter:
    """Return the routes; none of them has anything to say but its status."""
    router = APIRouter(prefix="/account", tags=["authentication"], default_response_class=Response)
    post = router.post
    post("/password", status_code=204, responses=_OWN)(change_own_password)
    post("/password/reset/request", status_code=202, responses=_LIMITED, dependencies=[public])(request_reset)
    post("/password/reset", status_code=204, responses=_TOKEN, dependencies=[public])(choose_new_password)
    post("/verification/request", status_code=202, responses=_OWN)(request_verification)
    post("/verification", status_code=204, responses=_TOKEN, dependencies=[public])(verify_address)
    return router


async def change_own_password(change: PasswordChange, principal: PrincipalDep, request: Request) -> None:
    """Change the password; every other login of the account ends."""
    _require_user(principal)
    await count_login(principal.subject)
    await change_password(
        identity_of(request),
        principal,
        current=change.current_password.get_secret_value(),
        new=change.new_password.get_secret_value(),
    )


async def request_reset(wanted: ResetRequest, request: Request) -> None:
    """Have a message sent by which an account's owner can choose a new password, if there is one."""
    await count_reset(wanted.login)
    identity = identity_of(request)
    identity.runtime.background.start(send_reset(identity, wanted.login), name="backstay.reset")


async def choose_new_password(wanted: PasswordReset, request: Request) -> None:
    """Choose a new password by what the message brought; every login of the account ends."""
    await count_confirmation()
    await reset_password(
        identity_of(request),
        token=wanted.token.get_secret_value(),
        new=wanted.new_password.get_secret_value(),
    )


async def request_verification(principal: PrincipalDep, request: Request) -> None:
    """Have a message sent that lets the account's owner show that its address is its own."""
    _require_user(principal)
    await count_reset(principal.subject)
    identity = identity_of(request)
    sending = send_verification(identity, principal.subject)
    identity.runtime.background.start(sending, name="backstay.verification")


async def verify_address(wanted: AddressVerification, request: Request) -> None:
    """Show that the account's address is its owner's, by what the message brought."""
    await count_confirmation()
    await confirm_address(identity_of(request), token=wanted.token.get_secret_value())


def _require_user(principal: PrincipalDep) -> None:
    if principal.kind != "user":
        raise PermissionDeniedError("Only a user who has logged in may do this.")

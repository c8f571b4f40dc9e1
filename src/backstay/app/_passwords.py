"""A new password for an old or a forgotten one, and a verified address.

Hashing comes first, outside of the transaction: for as long as it takes no connection and no lock is held.
"""

from __future__ import annotations

from backstay.app._identity import Identity
from backstay.app._messages import RESET, VERIFICATION, fingerprint
from backstay.app._session_states import forget_sessions
from backstay.app.accounts import Account, OneTimeTokenError
from backstay.db import AsyncSession
from backstay.errors import PermissionDeniedError
from backstay.logging import get_logger
from backstay.security import Principal

__all__ = ["WrongPasswordError", "change_password", "confirm_address", "reset_password"]

_log = get_logger("backstay.auth")


class WrongPasswordError(PermissionDeniedError):
    """The current password is another one."""

    code = "wrong_password"

    def __init__(self) -> None:
        super().__init__("The current password is wrong.")


async def change_password(identity: Identity, principal: Principal, *, current: str, new: str) -> None:
    """Give an account another password, and end its other logins.

    Raises:
        WrongPasswordError: `current` is not its password.
        WeakPasswordError: `new` is too weak.
    """
    async with identity.runtime.database.reading() as session:
        account = await identity.accounts.load(session, principal.subject)
    found = await identity.check_account(account, current)
    if found is None:
        _log.info("password change refused", subject=principal.subject)
        raise WrongPasswordError
    _check(identity, found.account, new)
    hashed = await identity.passwords.hash(new)
    async with identity.runtime.database.transaction() as writing:
        if await identity.reload(writing, found.account) is None:
            raise WrongPasswordError
        await _set_password(identity, writing, principal.subject, hashed, except_session=principal.session)
    _log.info("password changed", subject=principal.subject)


async def reset_password(identity: Identity, *, token: str, new: str) -> None:
    """Give an account another password by the token of a message, and end all its logins.

    Raises:
        OneTimeTokenError: The token is no good.
        WeakPasswordError: `new` is too weak; the token stays good.
    """
    identity.passwords.check_password(new, context=(identity.realm,))
    hashed = await identity.passwords.hash(new)
    async with identity.runtime.database.transaction() as session:
        account = await _take(identity, session, RESET, token)
        _check(identity, account, new)
        await _set_password(identity, session, account.subject, hashed)
    _log.info("password reset", subject=account.subject)


async def confirm_address(identity: Identity, *, token: str) -> None:
    """Store that the address of an account is its owner's, by the token of a message.

    Raises:
        OneTimeTokenError: The token is no good.
    """
    async with identity.runtime.database.transaction() as session:
        account = await _take(identity, session, VERIFICATION, token)
        await identity.accounts.confirm(session, account.subject)
    _log.info("address verified", subject=account.subject)


async def _take(identity: Identity, session: AsyncSession, purpose: str, token: str) -> Account:
    taken = await identity.one_time_tokens.take(session, purpose=purpose, token=token)
    account = None if taken is None else await identity.accounts.load(session, taken.subject)
    if taken is None or account is None or not account.is_active:
        raise OneTimeTokenError
    if taken.bound_to != fingerprint(account, purpose):
        raise OneTimeTokenError
    return account


def _check(identity: Identity, account: Account, new: str) -> None:
    known = (identity.realm, *account.context, *((account.address,) if account.address else ()))
    identity.passwords.check_password(new, context=known)


async def _set_password(
    identity: Identity,
    session: AsyncSession,
    subject: str,
    hashed: str,
    *,
    except_session: str | None = None,
) -> None:
    await identity.accounts.set_password(session, subject, hashed)
    ended = await identity.sessions.revoke_all(session, subject, except_session=except_session)
    await forget_sessions(session, ended)

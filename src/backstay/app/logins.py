"""What a service's own code does with logins and new passwords."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from backstay.app._messages import send_verification
from backstay.app._principals import identity_of
from backstay.app._session_states import forget_sessions
from backstay.app.runtime import current_runtime
from backstay.db import AsyncSession
from backstay.db.tokens import Sessions
from backstay.logging import get_logger
from backstay.security import opaque
from backstay.security.passwords import Passwords
from backstay.transaction import after_commit

__all__ = ["PasswordsDep", "VerificationDep", "VerificationSender", "revoke_sessions"]

_log = get_logger("backstay.auth")


async def revoke_sessions(session: AsyncSession, subject: str, *, except_session: str | None = None) -> int:
    """End the logins of somebody, and return how many there were.

    From the commit on no request is let in with their access tokens, whichever worker it reaches, and no
    refresh token gives another one. Call it when an account is disabled or loses a scope.

    Args:
        session: Its transaction ends them.
        subject: Whose.
        except_session: One that goes on: `principal.session`.
    """
    runtime = current_runtime()
    sessions = Sessions(runtime.database, runtime.settings.security, opaque)
    ended = await sessions.revoke_all(session, subject, except_session=except_session)
    await forget_sessions(session, ended)
    _log.info("logins revoked", subject=subject, count=len(ended))
    return len(ended)


async def _find_passwords(connection: HTTPConnection) -> Passwords:
    return identity_of(connection).passwords


PasswordsDep = Annotated[Passwords, Depends(_find_passwords)]
"""Checks and hashes passwords, for a registration of the service's own:

    passwords.check_password(new.password, context=[new.email])
    user.password_hash = await passwords.hash(new.password)
"""


class VerificationSender:
    """Sends messages that verify addresses."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._identity = identity_of(connection)

    def send_after_commit(self, session: AsyncSession, subject: str) -> None:
        """Send a message to the address of an account that this session's transaction makes or changes.

        It goes out in the background, once the transaction is committed.
        """
        after_commit(session, self._send, subject)

    def _send(self, subject: str) -> None:
        sending = send_verification(self._identity, subject)
        self._identity.runtime.background.start(sending, name="backstay.verification")


VerificationDep = Annotated[VerificationSender, Depends(VerificationSender)]
"""Sends a message that verifies the address of a new account."""

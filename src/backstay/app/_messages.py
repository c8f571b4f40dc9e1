"""Messages to the owners of accounts, made and delivered in the background.

Who asked for one was answered before: neither the answer nor its time tells whether there is an account.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from pydantic import SecretStr

from backstay.app._identity import Identity
from backstay.app.accounts import Account, ResetMessage, VerificationMessage
from backstay.logging import get_logger

__all__ = ["RESET", "VERIFICATION", "fingerprint", "send_reset", "send_verification"]

RESET: Final = "reset"
VERIFICATION: Final = "verification"

_log = get_logger("backstay.auth")


async def send_reset(identity: Identity, login: str) -> None:
    """Send the token that resets the password of an account; nothing, if there is none."""
    async with identity.runtime.database.reading() as session:
        account = await identity.accounts.find(session, login)
    if account is None or not account.is_active or account.address is None:
        _log.info("reset asked for without an account")
        return
    ttl = identity.runtime.settings.security.reset_ttl
    async with identity.runtime.database.transaction() as writing:
        token = await identity.one_time_tokens.issue(
            writing, purpose=RESET, subject=account.subject, bound_to=fingerprint(account, RESET), ttl=ttl
        )
    ends = datetime.now(UTC) + ttl
    await identity.accounts.deliver(ResetMessage(account.subject, account.address, SecretStr(token), ends))
    _log.info("reset sent", subject=account.subject)


async def send_verification(identity: Identity, subject: str) -> None:
    """Send the token that verifies the address of an account; nothing, if it has none."""
    async with identity.runtime.database.reading() as session:
        account = await identity.accounts.load(session, subject)
    if account is None or not account.is_active or account.address is None:
        return
    ttl = identity.runtime.settings.security.verification_ttl
    bound_to = fingerprint(account, VERIFICATION)
    async with identity.runtime.database.transaction() as writing:
        token = await identity.one_time_tokens.issue(
            writing, purpose=VERIFICATION, subject=subject, bound_to=bound_to, ttl=ttl
        )
    ends = datetime.now(UTC) + ttl
    await identity.accounts.deliver(VerificationMessage(subject, account.address, SecretStr(token), ends))
    _log.info("verification sent", subject=subject)


def fingerprint(account: Account, purpose: str) -> str:
    """Return what a token is bound to: when the password, or the address, has changed it is worth nothing."""
    hashed = "" if account.password_hash is None else account.password_hash.get_secret_value()
    bound = hashed if purpose == RESET else account.address or ""
    return hashlib.sha256(bound.encode()).hexdigest()

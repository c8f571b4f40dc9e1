"""What a service tells about its accounts, and what is brought to their owners.

The service owns its users. Logins, tokens, resets and their limits are the library's, so that a fix reaches
every service; this is the seam between the two.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from pydantic import SecretStr

from backstay.app.runtime import current_runtime
from backstay.db import AsyncSession
from backstay.errors import BadRequestError, UsageError

__all__ = ["Account", "Accounts", "OneTimeTokenError", "ResetMessage", "VerificationMessage", "delivers"]


@dataclass(frozen=True, slots=True)
class Account:
    """What logging in has to know of a user.

    Attributes:
        subject: The user's id, as tokens and logs show it: nothing that says who it is.
        password_hash: What `set_password` was given last; None for an account that has none yet.
        scopes: What the user may do.
        is_active: Whether the user may do anything; else every answer is that of a wrong password.
        address: Where messages to the user go, such as its e-mail address.
        context: What others know of the user, and no password may be made of: names, the address.
    """

    subject: str
    password_hash: SecretStr | None
    scopes: frozenset[str] = frozenset()
    is_active: bool = True
    address: str | None = None
    context: Sequence[str] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _Message:
    subject: str
    address: str
    token: SecretStr
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ResetMessage(_Message):
    """Lets a user choose a new password.

    Attributes:
        subject: Whose password it is.
        address: Where to send it.
        token: What `POST /account/password/reset` asks for; put it behind the `#` of a link, where no log of
            a server sees it.
        expires_at: Until when.
    """


@dataclass(frozen=True, slots=True)
class VerificationMessage(_Message):
    """Lets a user show that an address is its own.

    Attributes:
        subject: Who is to show it.
        address: Where to send it.
        token: What `POST /account/verification` asks for; put it behind the `#` of a link.
        expires_at: Until when.
    """


class OneTimeTokenError(BadRequestError):
    """A token for a reset or a verification was used, is too old, or never was one."""

    code = "one_time_token"

    def __init__(self) -> None:
        super().__init__("This token was used before, has expired, or never was one; ask for a new one.")


@runtime_checkable
class Accounts(Protocol):
    """What a service implements so that its users can log in: `class ShopAccounts(Accounts)`.

    Each call may come with a session that only reads, as far as it only reads.
    """

    async def find(self, session: AsyncSession, login: str) -> Account | None:
        """Return the account that somebody logs in to, by what was typed as its name; None without one."""
        ...

    async def load(self, session: AsyncSession, subject: str) -> Account | None:
        """Return an account by its subject; None when there is none, or no longer."""
        ...

    async def set_password(self, session: AsyncSession, subject: str, password_hash: str) -> None:
        """Store what takes the place of the account's `password_hash`."""
        ...

    async def confirm(self, session: AsyncSession, subject: str) -> None:
        """Store that the account's address is its owner's: a message to it has arrived."""
        raise UsageError(f"{type(self).__name__} does not say what a verified address changes: `confirm`.")

    async def deliver(self, message: ResetMessage | VerificationMessage) -> None:
        """Bring a message to its address; called in the background, after everything is committed.

        Development prints it, and production refuses to start with accounts that leave it at that.
        """
        if current_runtime().settings.environment == "production":
            raise UsageError(f"{type(self).__name__} does not deliver messages.")
        kind = "reset the password of" if isinstance(message, ResetMessage) else "verify the address of"
        token = message.token.get_secret_value()
        sys.stderr.write(f"To {kind} {message.address}, until {message.expires_at:%H:%M} UTC: {token}\n")


def delivers(accounts: Accounts) -> bool:
    """Return whether messages reach anybody."""
    return getattr(type(accounts), "deliver", None) is not Accounts.deliver

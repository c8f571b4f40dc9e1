"""What proves who calls a service: tokens and their sessions, API keys, passwords, opened together."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn

from backstay.app._session_states import find_api_key_state, find_session_end
from backstay.app._verified_tokens import VerifiedTokens
from backstay.app.accounts import Account, Accounts, delivers
from backstay.app.runtime import Runtime
from backstay.db import AsyncSession
from backstay.db.records import LibraryTables
from backstay.db.tokens import OneTimeTokens, Sessions, api_key_tables, one_time_token_tables, session_tables
from backstay.errors import ConfigurationError, InvalidTokenError, UsageError
from backstay.security import Principal, opaque
from backstay.security.api_keys import ReadApiKey, read_api_key
from backstay.security.keys import KeyRing
from backstay.security.opening import find_audience, find_issuer, open_key_ring
from backstay.security.passwords import Passwords
from backstay.security.tokens import AccessTokens
from backstay.settings import Settings

__all__ = ["Identity", "IdentityOptions", "PasswordLogin"]

_logger = logging.getLogger("backstay.auth")

_SWEEP_SECONDS: Final = 60.0
_NEXT_BATCH_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class IdentityOptions:
    """How the callers of an app are known.

    Attributes:
        accounts: The service's users; None when only programs call.
        takes_api_keys: Whether API keys are good as bearer tokens.
    """

    accounts: Accounts | None
    takes_api_keys: bool

    @property
    def tables(self) -> LibraryTables:
        """The library's own tables that this needs."""
        of_accounts = (*session_tables, *one_time_token_tables) if self.accounts is not None else ()
        return (*of_accounts, *(api_key_tables if self.takes_api_keys else ()))

    @asynccontextmanager
    async def running(self, runtime: Runtime) -> AsyncIterator[Identity]:
        """Open it for the time the app serves.

        Raises:
            ConfigurationError: Tokens cannot be signed, or messages to users reach nobody.
        """
        settings = runtime.settings
        if self.accounts is not None:
            _require_delivery(self.accounts, settings)
        ring = open_key_ring(settings) if self.accounts is not None else None
        async with Passwords(settings.security) as passwords:
            identity = Identity(self, runtime, ring=ring, passwords=passwords)
            sweeping = runtime.background.start(identity.sweep(), name="backstay.sessions")
            try:
                yield identity
            finally:
                sweeping.cancel()


def _make_tokens(settings: Settings, ring: Callable[[], KeyRing]) -> AccessTokens:
    issuer, audience = find_issuer(settings), find_audience(settings)
    return AccessTokens(settings.security, ring, issuer=issuer, audience=audience)


def _require_delivery(accounts: Accounts, settings: Settings) -> None:
    if settings.environment == "production" and not delivers(accounts):
        raise ConfigurationError(
            f"{type(accounts).__name__} delivers no messages: nobody could reset a password.",
            hint="Implement `deliver`; the guide on authentication shows one that sends mail.",
        )


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """A password that was right.

    Attributes:
        account: Whose it is.
        new_hash: What to store instead of its hash, when that was made with other settings.
    """

    account: Account
    new_hash: str | None


class Identity:
    """What proves who calls, while the app serves.

    Attributes:
        sessions: The logins.
        one_time_tokens: Those for resets and verifications.
        passwords: Checks and hashes them.
        realm: What this is the way into, as challenges say.
    """

    def __init__(
        self,
        options: IdentityOptions,
        runtime: Runtime,
        *,
        ring: Callable[[], KeyRing] | None,
        passwords: Passwords,
    ) -> None:
        self._options = options
        self._ring = ring
        self._tokens = None if ring is None else _make_tokens(runtime.settings, ring)
        self._verified = None if ring is None else VerifiedTokens(self.tokens, ring)
        self.runtime = runtime
        self.passwords = passwords
        self.realm = runtime.settings.name
        self.sessions = Sessions(runtime.database, runtime.settings.security, opaque)
        self.one_time_tokens = OneTimeTokens(runtime.database, opaque)

    @property
    def accounts(self) -> Accounts:
        """The service's users."""
        if self._options.accounts is None:
            raise UsageError("This service has no accounts: create_app(..., accounts=...).")
        return self._options.accounts

    @property
    def tokens(self) -> AccessTokens:
        """What issues and verifies access tokens."""
        if self._tokens is None:
            raise UsageError("This service has no accounts: create_app(..., accounts=...).")
        return self._tokens

    def public_keys(self) -> dict[str, list[dict[str, object]]]:
        """Return the JWK Set that access tokens are verified with."""
        return {"keys": []} if self._ring is None else self._ring().public_set()

    @property
    def issuer(self) -> str:
        """The URL that access tokens name as theirs."""
        return find_issuer(self.runtime.settings)

    async def authenticate(self, token: str) -> Principal:
        """Return who shows a token, or an API key.

        Raises:
            InvalidTokenError: It is no good.
        """
        if self._options.takes_api_keys and (key := read_api_key(token)) is not None:
            return await self._authenticate_key(key)
        if self._verified is None:
            raise InvalidTokenError("malformed")
        claims = self._verified.verify(token)
        if claims.session is not None and await find_session_end()(claims.session) <= _now():
            raise InvalidTokenError("revoked")
        kind: Final = "client" if claims.subject == claims.client_id else "user"
        return Principal(claims.subject, claims.scopes, kind, claims.client_id, claims.session)

    async def _authenticate_key(self, key: ReadApiKey) -> Principal:
        state = await find_api_key_state()(key.key_id)
        if state is None or not secrets.compare_digest(state.digest, key.digest):
            raise InvalidTokenError("unknown")
        if state.ends_at is not None and state.ends_at <= _now():
            raise InvalidTokenError("revoked")
        scopes = frozenset(state.scopes)
        if self._options.accounts is not None:
            scopes &= await self._find_scopes(state.subject)
        return Principal(state.subject, scopes, "api_key", key_id=key.key_id)

    async def _find_scopes(self, subject: str) -> frozenset[str]:
        """Return what the owner of a key may do itself: no key may do more."""
        async with self.runtime.database.reading() as session:
            account = await self.accounts.load(session, subject)
        if account is None or not account.is_active:
            raise InvalidTokenError("revoked")
        return account.scopes

    async def check_login(self, login: str, password: str) -> PasswordLogin | None:
        """Return whose password this is; None, after as long a time, when it is nobody's.

        No connection is held while it is compared.
        """
        async with self.runtime.database.reading() as session:
            account = await self.accounts.find(session, login)
        return await self.check_account(account, password)

    async def check_account(self, account: Account | None, password: str) -> PasswordLogin | None:
        """Return the account when this is its password; None, after as long a time, when it is not."""
        hashed = account.password_hash if account is not None and account.is_active else None
        check = await self.passwords.verify(password, None if hashed is None else hashed.get_secret_value())
        return PasswordLogin(account, check.new_hash) if account is not None and check.is_right else None

    async def reload(self, session: AsyncSession, account: Account) -> Account | None:
        """Return the account as a transaction sees it; None when its password is another one by now.

        Between the check of a password and this transaction it may have been changed, and its logins ended.
        """
        now = await self.accounts.load(session, account.subject)
        is_same = now is not None and now.is_active and now.password_hash == account.password_hash
        return now if is_same else None

    async def sweep(self) -> NoReturn:
        """Delete what is over, a batch at a time; until cancelled."""
        pause = _SWEEP_SECONDS
        while True:
            # Workers that started together do not sweep together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = _SWEEP_SECONDS
            try:
                pause = _NEXT_BATCH_SECONDS if await self._sweep_once() else _SWEEP_SECONDS
            except Exception:
                _logger.warning("What is over of logins and tokens could not be deleted.", exc_info=True)

    async def _sweep_once(self) -> bool:
        if self._options.accounts is None:
            return False
        return any([await self.sessions.sweep(), await self.one_time_tokens.sweep()])


def _now() -> float:
    return datetime.now(UTC).timestamp()

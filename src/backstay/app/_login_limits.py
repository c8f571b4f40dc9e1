"""How often logins, refreshes and resets may be tried: by account, by address, and by everybody together.

No account is locked: what is over a limit is told when to come back, and the strict limit counts by account
and address together, so that who tries passwords from elsewhere does not keep the owner out. Logins are
counted by their digest: what was typed may be a password, and is nobody's business in Redis.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache

from backstay.app.limits import RateLimit, rate_limit
from backstay.app.runtime import current_runtime
from backstay.settings.security import SecuritySettings

__all__ = ["count_confirmation", "count_login", "count_refresh", "count_reset"]

_limit = lru_cache(rate_limit)  # reading templates is not for each attempt


async def count_login(login: str) -> None:
    """Count an attempt to log in.

    Raises:
        RateLimitedError: It is one too many.
    """
    limits = _limits()
    await _hit(limits.login)
    await _hit(limits.login_of_account, account=_digest(login))


async def count_refresh(refresh_token: str) -> None:
    """Count an attempt to get another access token.

    Raises:
        RateLimitedError: It is one too many.
    """
    limits = _limits()
    await _hit(limits.refresh)
    await _hit(limits.refresh_of_token, token=_digest(refresh_token))


async def count_reset(login: str) -> None:
    """Count a request for a message to an account.

    Raises:
        RateLimitedError: It is one too many.
    """
    limits = _limits()
    await _hit(limits.reset)
    await _hit(limits.reset_of_account, account=_digest(login))


async def count_confirmation() -> None:
    """Count an attempt to use what was in a message.

    Raises:
        RateLimitedError: It is one too many.
    """
    await _hit(_limits().confirmation)


class LoginLimits:
    """How often, by setting where many users may share an address or come at one hour."""

    def __init__(self, settings: SecuritySettings) -> None:
        self.login = (
            _limit("logins:{ip}", limit=settings.logins_per_address, per="15m"),
            _limit("logins", limit=settings.logins_per_minute, per="1m"),
        )
        self.login_of_account = (
            _limit("logins:{account}:{ip}", limit=5, per="15m"),
            _limit("logins:{account}", limit=100, per="1h"),
        )
        self.refresh = (
            _limit("refreshes:{ip}", limit=settings.refreshes_per_address, per="15m"),
            _limit("refreshes", limit=settings.refreshes_per_minute, per="1m"),
        )
        self.refresh_of_token = (_limit("refreshes:{token}", limit=10, per="1m"),)
        self.reset = (
            _limit("resets:{ip}", limit=20, per="1h"),
            _limit("resets", limit=300, per="1m"),
        )
        self.reset_of_account = (_limit("resets:{account}", limit=3, per="1h"),)
        self.confirmation = (
            _limit("confirmations:{ip}", limit=30, per="1h"),
            _limit("confirmations", limit=300, per="1m"),
        )


def _limits() -> LoginLimits:
    return LoginLimits(current_runtime().settings.security)


async def _hit(limits: tuple[RateLimit, ...], **values: object) -> None:
    for limit in limits:
        await limit.hit(**values)


def _digest(typed: str) -> str:
    folded = unicodedata.normalize("NFKC", typed).casefold().strip()
    return hashlib.sha256(folded.encode(errors="surrogatepass")).hexdigest()

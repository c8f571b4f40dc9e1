"""How often logins, refreshes and resets may be tried: by account, by address, and by everybody together.

No account is locked: what is over a limit is told when to come back, and the strict limit counts by account
and address together, so that who tries passwords from elsewhere does not keep the owner out. Logins are
counted by their digest: what was typed may be a password, and is nobody's business in Redis.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Final

from backstay.app.limits import RateLimit, rate_limit

__all__ = ["count_confirmation", "count_login", "count_refresh", "count_reset"]

_LOGIN: Final = (
    rate_limit("logins:{ip}", limit=50, per="15m"),
    rate_limit("logins", limit=600, per="1m"),
)
_LOGIN_OF_ACCOUNT: Final = (
    rate_limit("logins:{account}:{ip}", limit=5, per="15m"),
    rate_limit("logins:{account}", limit=100, per="1h"),
)
_REFRESH: Final = (
    rate_limit("refreshes:{ip}", limit=600, per="15m"),
    rate_limit("refreshes", limit=6000, per="1m"),
)
_REFRESH_OF_TOKEN: Final = (rate_limit("refreshes:{token}", limit=10, per="1m"),)
_RESET: Final = (
    rate_limit("resets:{ip}", limit=20, per="1h"),
    rate_limit("resets", limit=300, per="1m"),
)
_CONFIRMATION: Final = (
    rate_limit("confirmations:{ip}", limit=30, per="1h"),
    rate_limit("confirmations", limit=300, per="1m"),
)
_RESET_OF_ACCOUNT: Final = (rate_limit("resets:{account}", limit=3, per="1h"),)


async def count_login(login: str) -> None:
    """Count an attempt to log in.

    Raises:
        RateLimitedError: It is one too many.
    """
    await _hit(_LOGIN)
    await _hit(_LOGIN_OF_ACCOUNT, account=_digest(login))


async def count_refresh(refresh_token: str) -> None:
    """Count an attempt to get another access token.

    Raises:
        RateLimitedError: It is one too many.
    """
    await _hit(_REFRESH)
    await _hit(_REFRESH_OF_TOKEN, token=_digest(refresh_token))


async def count_reset(login: str) -> None:
    """Count a request for a message to an account.

    Raises:
        RateLimitedError: It is one too many.
    """
    await _hit(_RESET)
    await _hit(_RESET_OF_ACCOUNT, account=_digest(login))


async def count_confirmation() -> None:
    """Count an attempt to use what was in a message.

    Raises:
        RateLimitedError: It is one too many.
    """
    await _hit(_CONFIRMATION)


async def _hit(limits: tuple[RateLimit, ...], **values: object) -> None:
    for limit in limits:
        await limit.hit(**values)


def _digest(typed: str) -> str:
    folded = unicodedata.normalize("NFKC", typed).casefold().strip()
    return hashlib.sha256(folded.encode(errors="surrogatepass")).hexdigest()

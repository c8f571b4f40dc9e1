"""The settings of identity: tokens and their keys, how long a login lasts, passwords."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from backstay.settings.sections import Duration, SettingsSection

__all__ = ["MAX_ACCESS_TTL", "MAX_LEEWAY", "SecuritySettings", "SigningAlgorithm"]

SigningAlgorithm = Literal["EdDSA", "ES256", "RS256", "HS256"]
"""What a key is for; it is a property of the key, and never taken from a token."""

MAX_ACCESS_TTL: Final = timedelta(minutes=15)
"""No access token is good for longer: it cannot be called back where nobody asks the database."""

MAX_LEEWAY: Final = timedelta(seconds=30)
"""Clocks that are further apart than this are broken."""

_HIGHEST_LIMIT: Final = 10_000
"""As much as a rate limit counts."""


class SecuritySettings(SettingsSection):
    """Who issues the access tokens, for how long they are good, and what a password has to be."""

    issuer: str | None = Field(
        default=None,
        description="Who issues the access tokens: the URL under which callers reach the service. Unset: "
        "http://127.0.0.1:8000, except in production, where accounts need it.",
        examples=["https://shop.example"],
    )
    audience: str | None = Field(
        default=None, min_length=1, description="Whom the access tokens are for. Unset: the issuer."
    )
    key_file: Path | None = Field(
        default=None,
        description="The file with the keys that sign access tokens, which `backstay keys generate` writes. "
        "Unset: made by itself in development and in tests; accounts in production need it.",
        examples=["/run/secrets/shop_keys.json"],
    )
    algorithm: SigningAlgorithm = Field(
        default="EdDSA", description="What new keys are for. With HS256 whoever verifies can also sign."
    )
    access_ttl: Annotated[Duration, Field(ge=timedelta(seconds=10), le=MAX_ACCESS_TTL)] = Field(
        default=MAX_ACCESS_TTL, description="For how long an access token is good; 15m at the most."
    )
    leeway: Annotated[Duration, Field(le=MAX_LEEWAY)] = Field(
        default=timedelta(seconds=10),
        description="How far the clocks of two machines may be apart; 30s at the most.",
    )
    refresh_ttl: Annotated[Duration, Field(ge=timedelta(minutes=1))] = Field(
        default=timedelta(days=30), description="A login that is not refreshed for so long is over."
    )
    session_ttl: Annotated[Duration, Field(ge=timedelta(minutes=1))] = Field(
        default=timedelta(days=90), description="A login is over after so long, refreshed or not."
    )
    refresh_grace: Annotated[Duration, Field(le=timedelta(minutes=1))] = Field(
        default=timedelta(seconds=10),
        description="For how long a refresh token that comes again gets the answer of the first time, which "
        "may have been lost; later it is taken for stolen, and the login is over.",
    )
    reset_ttl: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(hours=1))] = Field(
        default=timedelta(hours=1), description="For how long a password can be reset; 1h at the most."
    )
    verification_ttl: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(hours=1))] = Field(
        default=timedelta(hours=1), description="For how long an address can be verified; 1h at the most."
    )
    password_min_length: int = Field(
        default=15,
        ge=8,
        le=64,
        description="How many characters a password has at least. Fewer than 15 only where a second factor "
        "is asked for; never fewer than 8.",
    )
    password_max_bytes: int = Field(
        default=1024, ge=256, le=4096, description="A longer password is refused, never cut off."
    )
    argon2_memory_kib: int = Field(
        default=19_456,
        ge=32,
        le=4 * 1024 * 1024,
        description="How much memory hashing a password takes; production refuses less than 19456.",
    )
    argon2_time_cost: int = Field(
        default=2, ge=1, le=100, description="How often it goes over it; production refuses less than 2."
    )
    argon2_parallelism: int = Field(default=1, ge=1, le=4, description="In how many lanes it goes over it.")
    password_threads: int | None = Field(
        default=None,
        ge=1,
        description="How many passwords are hashed at once in each process. Unset: as many as there are "
        "cores, 8 at the most.",
    )
    password_queue: int = Field(
        default=50, ge=0, description="How many more may wait for that; the next one is answered with 503."
    )
    logins_per_address: int = Field(
        default=50,
        ge=5,
        le=_HIGHEST_LIMIT,
        description="How often logins are tried from one address in 15 minutes. More where many users share "
        "one, as behind the router of an office.",
    )
    logins_per_minute: int = Field(
        default=600, ge=5, le=_HIGHEST_LIMIT, description="How often logins are tried in a minute, by all."
    )
    refreshes_per_address: int = Field(
        default=600,
        ge=10,
        le=_HIGHEST_LIMIT,
        description="How often access tokens are refreshed from one address in 15 minutes.",
    )
    refreshes_per_minute: int = Field(
        default=6_000,
        ge=10,
        le=_HIGHEST_LIMIT,
        description="How often access tokens are refreshed in a minute, by all.",
    )

    @field_validator("issuer")
    @classmethod
    def _check_issuer(cls, issuer: str | None) -> str | None:
        if issuer is not None and _ISSUER.fullmatch(issuer) is None:
            raise ValueError(
                "must be a URL that starts with http:// or https://, without a password, query and fragment"
            )
        return issuer


_ISSUER: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#@]*)?")

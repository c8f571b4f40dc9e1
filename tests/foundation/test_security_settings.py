from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from backstay.errors import ConfigurationError
from backstay.settings import DatabaseSettings, SecuritySettings, Settings


def make_production(**security: Any) -> Settings:
    database = DatabaseSettings(url=SecretStr("postgresql://shop:kX9-vb2@db/shop"))
    return Settings(environment="production", database=database, security=SecuritySettings(**security))


def test_the_defaults_are_those_of_the_cheat_sheets() -> None:
    security = SecuritySettings()

    assert (security.issuer, security.audience, security.key_file) == (None, None, None)
    assert (security.algorithm, security.access_ttl) == ("EdDSA", timedelta(minutes=15))
    assert (security.password_min_length, security.password_max_bytes) == (15, 1024)
    argon2 = (security.argon2_memory_kib, security.argon2_time_cost, security.argon2_parallelism)
    assert argon2 == (19 * 1024, 2, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("issuer", "ftp://shop.example"),
        ("issuer", "https://shop.example?tenant=1"),
        ("issuer", "https://shop.example/#top"),
        ("issuer", "https://user@shop.example"),
        ("issuer", "shop.example"),
        ("access_ttl", timedelta(minutes=16)),
        ("access_ttl", timedelta(0)),
        ("leeway", timedelta(seconds=31)),
        ("reset_ttl", timedelta(hours=2)),
        ("verification_ttl", timedelta(hours=2)),
        ("refresh_grace", timedelta(minutes=2)),
        ("password_min_length", 7),
        ("algorithm", "none"),
        ("algorithm", "HS512"),
    ],
)
def test_what_no_environment_should_have_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        SecuritySettings.model_validate({field: value})


@pytest.mark.parametrize(
    "issuer", ["https://shop.example", "https://shop.example/auth/", "http://127.0.0.1:8000"]
)
def test_an_issuer_is_a_plain_url(issuer: str) -> None:
    assert SecuritySettings(issuer=issuer).issuer == issuer


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ({"issuer": "http://shop.example"}, "BACKSTAY_SECURITY__ISSUER must start with https://"),
        ({"argon2_memory_kib": 19_455}, "ARGON2_MEMORY_KIB=19455 is refused in production: 19456"),
        ({"argon2_time_cost": 1}, "ARGON2_TIME_COST=1 is refused in production: 2"),
    ],
)
def test_production_refuses_what_is_weak(security: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make_production(**security)


def test_production_takes_the_defaults_and_an_issuer_over_https() -> None:
    assert make_production(issuer="https://shop.example").security.issuer == "https://shop.example"

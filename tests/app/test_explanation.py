"""What `explain` says of each part, for the settings that decide it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backstay.app.explanation import Part, parts, variable_name
from backstay.settings import (
    CacheSettings,
    DatabaseSettings,
    HttpSettings,
    LoggingSettings,
    ServerSettings,
    Settings,
    SettingsConfigDict,
    TelemetrySettings,
)


class ShopSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="SHOP_", env_file=None)


def _explain(name: str, *, has_policy: bool = True, **values: Any) -> Part:
    settings = ShopSettings(**values)
    return next(part for part in parts(settings, has_policy=has_policy) if part.name == name)


_PRODUCTION: dict[str, Any] = {
    "environment": "production",
    "database": DatabaseSettings(url=SecretStr("postgresql://shop:JzS7pQ1d@db.internal/shop")),
}


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        (
            "documentation",
            {},
            "documentation: on, because SHOP_HTTP__DOCS is not set and the environment is development",
        ),
        (
            "documentation",
            _PRODUCTION,
            "documentation: off, because SHOP_HTTP__DOCS is not set and the environment is production",
        ),
        (
            "documentation",
            _PRODUCTION | {"http": HttpSettings(docs=True)},
            "documentation: on, because the code sets http.docs",
        ),
        (
            "stop",
            {},
            "stop: takes no more requests, and finishes them within 30s, "
            "because SHOP_SERVER__DRAIN is not set and the environment is development",
        ),
        (
            "stop",
            _PRODUCTION,
            "stop: takes requests for 10 more seconds, and finishes them within 30s, "
            "because SHOP_SERVER__DRAIN is not set and the environment is production",
        ),
        (
            "stop",
            {"server": ServerSettings(drain=timedelta(seconds=4))},
            "stop: takes requests for 4 more seconds, and finishes them within 30s, "
            "because the code sets server.drain",
        ),
        ("hosts", {}, "hosts: answers to any name, because SHOP_HTTP__ALLOWED_HOSTS is not set"),
        (
            "hosts",
            {"http": HttpSettings(allowed_hosts=("shop.example", "*.shop.example"))},
            "hosts: answers to shop.example, *.shop.example, because the code sets http.allowed_hosts",
        ),
        (
            "connections",
            {},
            "connections: heads within 5s, bodies within 30s, stalled ones closed after 5s, "
            "because SHOP_SERVER__HEADER_TIMEOUT is not set",
        ),
        (
            "header limit",
            {},
            "header limit: 100 lines of 32768 bytes in all, because SHOP_HTTP__MAX_HEADERS is not set",
        ),
        (
            "strict JSON",
            {},
            "strict JSON: on, because SHOP_HTTP__STRICT_JSON is not set and create_app() made the app",
        ),
        (
            "strict JSON",
            {"http": HttpSettings(strict_json=False)},
            "strict JSON: off, because the code sets http.strict_json",
        ),
        (
            "route policies",
            {},
            "route policies: each route has to say who may call it, because SHOP_HTTP__REQUIRE_POLICIES is "
            "not set and create_app() made the app",
        ),
        (
            "route policies",
            {"http": HttpSettings(require_policies=False)},
            "route policies: off, because the code sets http.require_policies",
        ),
        ("CORS", {}, "CORS: off, because SHOP_HTTP__CORS_ORIGINS is not set"),
        (
            "metrics",
            {},
            "metrics: at /metrics for everyone, because SHOP_TELEMETRY__METRICS is not set "
            "and the environment is development",
        ),
        (
            "metrics",
            _PRODUCTION,
            "metrics: off, because SHOP_TELEMETRY__METRICS is not set and the environment is production",
        ),
        (
            "metrics",
            {"telemetry": TelemetrySettings(metrics=True, metrics_token=SecretStr("JzS7pQ1dJzS7pQ1d"))},
            "metrics: at /metrics for who has the token, because the code sets telemetry.metrics",
        ),
        ("traces", {}, "traces: off, because SHOP_TELEMETRY__TRACES is not set"),
        (
            "slow queries",
            {},
            "slow queries: logged over 500 ms, because SHOP_TELEMETRY__SLOW_QUERY is not set",
        ),
        (
            "slow queries",
            {"telemetry": TelemetrySettings(slow_query=timedelta(0))},
            "slow queries: off, because the code sets telemetry.slow_query",
        ),
        (
            "blocked loop",
            {},
            "blocked loop: logged over 100 ms, because SHOP_TELEMETRY__BLOCKED_LOOP is not set "
            "and the environment is development",
        ),
        (
            "blocked loop",
            _PRODUCTION | {"telemetry": TelemetrySettings(blocked_loop=timedelta(seconds=0.25))},
            "blocked loop: logged over 250 ms, because the code sets telemetry.blocked_loop",
        ),
        (
            "migrations at start",
            {},
            "migrations at start: on, because SHOP_DATABASE__UPGRADE_ON_START is not set "
            "and the environment is development",
        ),
        (
            "migrations at start",
            {"environment": "test"},
            "migrations at start: off, because SHOP_DATABASE__UPGRADE_ON_START is not set "
            "and the environment is test",
        ),
        (
            "migrations at start",
            {"database": DatabaseSettings(upgrade_on_start=False)},
            "migrations at start: off, because the code sets database.upgrade_on_start",
        ),
        (
            "log format",
            _PRODUCTION,
            "log format: json, because SHOP_LOGGING__FORMAT is not set and the environment is production",
        ),
        (
            "log format",
            {},
            "log format: console on a terminal, json elsewhere, because SHOP_LOGGING__FORMAT is not set "
            "and the environment is development",
        ),
        (
            "log format",
            {"logging": LoggingSettings(format="json")},
            "log format: json, because the code sets logging.format",
        ),
        (
            "strict transport security",
            _PRODUCTION,
            "strict transport security: on, because the environment is production",
        ),
        (
            "proxy headers",
            {"server": ServerSettings(trusted_proxies=("10.0.0.0/8", "::1"))},
            "proxy headers: believed from 10.0.0.0/8, ::1, because the code sets server.trusted_proxies",
        ),
        (
            "proxy headers",
            {"server": ServerSettings(trusted_proxies=())},
            "proxy headers: off, because the code sets server.trusted_proxies",
        ),
        (
            "database",
            _PRODUCTION,
            "database: PostgreSQL at postgresql://shop:[redacted]@db.internal/shop, "
            "because the code sets database.url",
        ),
        (
            "database",
            {"database": DatabaseSettings(url=SecretStr("sqlite://"))},
            "database: SQLite in memory, gone when the process ends, because the code sets database.url",
        ),
        (
            "cache",
            {},
            "cache: in the memory of this process, because SHOP_CACHE__URL is not set",
        ),
        (
            "cache",
            {"server": ServerSettings(workers=2)},
            "cache: in the memory of each process, emptied by every commit to the SQLite file, "
            "because SHOP_CACHE__URL is not set",
        ),
        (
            "cache without Redis",
            {"cache": CacheSettings(url=SecretStr("redis://cache.internal/0"))},
            "cache without Redis: changes are committed and cached reads may be a second old, "
            "because the code sets cache.coherence",
        ),
        (
            "deadline",
            {},
            "deadline: 30 s for each request, because SHOP_HTTP__DEADLINE is not set "
            "and create_app() made the app",
        ),
        (
            "deadline",
            {"http": HttpSettings(deadline=timedelta(0))},
            "deadline: off, because the code sets http.deadline",
        ),
        (
            "rate limits",
            {},
            "rate limits: counted by each process, because SHOP_CACHE__URL is not set",
        ),
        (
            "rate limits",
            {"cache": CacheSettings(url=SecretStr("redis://:JzS7pQ1d@cache.internal/0"))},
            "rate limits: counted in Redis at redis://:[redacted]@cache.internal/0, "
            "because the code sets cache.url",
        ),
    ],
)
def test_a_part_says_what_it_is_and_why(name: str, values: dict[str, Any], sentence: str) -> None:
    assert str(_explain(name, **values)) == sentence


def test_a_variable_is_quoted_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_HTTP__CORS_ORIGINS", "https://shop.example")

    part = _explain("CORS")

    assert (part.is_on, part.setting) == (True, "http.cors_origins")
    assert part.reason == "SHOP_HTTP__CORS_ORIGINS is https://shop.example"


def test_the_address_of_the_database_is_told_once_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_DATABASE__URL", "postgresql://shop:JzS7pQ1d@db.internal/shop")

    part = _explain("database")

    assert part.state == "PostgreSQL at postgresql://shop:[redacted]@db.internal/shop"
    assert part.reason == "SHOP_DATABASE__URL is set"


def test_a_sqlite_file_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert _explain("database").state == f"SQLite file {tmp_path}/service.db with a write-ahead log"


def test_install_leaves_the_policy_to_the_app() -> None:
    for name in (
        "documentation",
        "security headers",
        "problem documents",
        "body limit",
        "strict JSON",
        "deadline",
        "strict transport security",
    ):
        assert not _explain(name, has_policy=False, **_PRODUCTION).is_on


@pytest.mark.parametrize(
    ("routes", "sentence"),
    [
        (0, "idempotency keys: off, because no route is marked with idempotent()"),
        (
            1,
            "idempotency keys: on 1 route, kept for 1d, because SHOP_IDEMPOTENCY__KEEP is not set",
        ),
        (
            2,
            "idempotency keys: on 2 routes, kept for 1d, because SHOP_IDEMPOTENCY__KEEP is not set",
        ),
    ],
)
def test_idempotency_keys_are_told_by_the_routes_that_take_them(routes: int, sentence: str) -> None:
    explained = parts(ShopSettings(), idempotent_routes=routes)

    assert sentence in [str(part) for part in explained]


def test_the_variable_of_a_setting() -> None:
    assert variable_name(ShopSettings(), "server.port") == "SHOP_SERVER__PORT"


def test_strict_json_is_told_to_be_on_after_install_when_a_setting_says_so() -> None:
    part = _explain("strict JSON", has_policy=False, http=HttpSettings(strict_json=True))

    assert (part.is_on, part.setting) == (True, "http.strict_json")


def _explain_identity(name: str, **options: bool) -> str:
    return next(str(part) for part in parts(ShopSettings(), **options) if part.name == name)


def test_accounts_say_how_long_tokens_are_good_and_where_the_keys_are() -> None:
    assert _explain_identity("accounts") == "accounts: off, because create_app() was given none"
    assert _explain_identity("API keys") == "API keys: off, because create_app() was not asked to"
    assert _explain_identity("accounts", has_accounts=True) == (
        "accounts: access tokens are good for 15m, because SHOP_SECURITY__ACCESS_TTL is not set"
    )
    assert _explain_identity("signing keys", has_accounts=True) == (
        "signing keys: made by itself, in a file, because SHOP_SECURITY__KEY_FILE is not set"
    )
    in_production = parts(ShopSettings(**_PRODUCTION), has_accounts=True)
    (keys,) = [part for part in in_production if part.name == "signing keys"]
    assert (keys.is_on, keys.state) == (False, "none, and so no start")
    assert _explain_identity("API keys", takes_api_keys=True) == (
        "API keys: on, because create_app() was given api_keys=True"
    )

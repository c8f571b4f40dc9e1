"""Sections by a name that the operator chooses: `SHOP_CLIENTS__RATES__BASE_URL`."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from backstay.errors import ConfigurationError
from backstay.redaction import Redactor
from backstay.settings import (
    ClientSettings,
    Settings,
    SettingsConfigDict,
    environment_example,
    explain_settings,
    unknown_variables,
)

RATES = "https://rates.example/v1"


class ShopSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="SHOP_")


class BillingSettings(ShopSettings):
    clients: dict[str, ClientSettings] = Field(
        {"billing": ClientSettings(base_url="https://billing.example", retries=1)}
    )


Environment = Callable[..., None]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("SHOP_", "BACKSTAY_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def refuse(settings_class: type[Settings] = ShopSettings, **values: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        settings_class(**values)
    return str(caught.value)


def test_the_environment_names_a_client_and_sets_it(environment: Environment) -> None:
    environment(SHOP_CLIENTS__RATES__BASE_URL=RATES, shop_clients__exchange_2__base_url="http://localhost:9")
    environment(SHOP_CLIENTS__RATES__READ_TIMEOUT="250ms")

    settings = ShopSettings()

    assert settings.clients == {
        "rates": ClientSettings(base_url=RATES, read_timeout=timedelta(milliseconds=250)),
        "exchange_2": ClientSettings(base_url="http://localhost:9"),
    }
    assert settings.find_source("clients.rates.read_timeout") == "environment"
    assert settings.find_source("clients.rates.retries") == "default"


def test_env_file_secret_files_and_named_files_add_up(tmp_path: Path, environment: Environment) -> None:
    Path(".env").write_text("SHOP_CLIENTS__RATES__RETRIES=0\n")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "shop_clients__rates__base_url").write_text(RATES)
    (tmp_path / "proxy").write_text("http://user:hunter2@proxy.example")
    environment(SHOP_CLIENTS__RATES__PROXY_FILE=str(tmp_path / "proxy"))

    settings = ShopSettings(_secrets_dir=secrets)

    proxy = SecretStr("http://user:hunter2@proxy.example")
    assert settings.clients["rates"] == ClientSettings(base_url=RATES, retries=0, proxy=proxy)
    assert settings.find_source("clients.rates.retries") == ".env"
    assert settings.find_source("clients.rates.base_url").startswith("secrets file")


def test_what_the_code_declares_is_refined_and_added_to(environment: Environment) -> None:
    environment(SHOP_CLIENTS__BILLING__TIMEOUT="1s", SHOP_CLIENTS__RATES__BASE_URL=RATES)

    clients = BillingSettings().clients

    assert clients["billing"].retries == 1
    assert clients["billing"].timeout == timedelta(seconds=1)
    assert set(clients) == {"billing", "rates"}


def test_arguments_and_json_name_clients_too(environment: Environment) -> None:
    environment(SHOP_CLIENTS='{"rates": {"base_url": "https://rates.example/v1"}}')
    environment(SHOP_CLIENTS__RATES__RETRIES="0")

    settings = ShopSettings(clients={"geo": ClientSettings(base_url="https://geo.example")})

    assert set(settings.clients) == {"rates", "geo"}
    assert settings.clients["rates"] == ClientSettings(base_url=RATES, retries=0)
    assert settings.find_source("clients.geo.base_url") == "argument"


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("SHOP_CLIENTS__RATES__BASE_ULR", "SHOP_CLIENTS__RATES__BASE_URL"),
        ("SHOP_CLIENTS__RATES_RETRIES", "SHOP_CLIENTS__RATES__RETRIES"),
    ],
)
def test_a_misspelt_variable_of_a_client_is_told_with_the_nearest(
    variable: str, suggestion: str, environment: Environment
) -> None:
    environment(**{"SHOP_CLIENTS__RATES__BASE_URL": RATES, variable: "0"})

    assert f"{variable} (from the environment) is not a setting" in refuse()
    assert [(each.name, each.suggestion) for each in unknown_variables(ShopSettings)] == [
        (variable, f" Did you mean {suggestion!r}?")
    ]


def test_a_missing_and_a_bad_value_name_the_variable(environment: Environment) -> None:
    environment(SHOP_CLIENTS__RATES__RETRIES="11")

    told = refuse()

    assert "SHOP_CLIENTS__RATES__BASE_URL is required, for example SHOP_CLIENTS__RATES__BASE_URL=" in told
    assert "SHOP_CLIENTS__RATES__RETRIES (from the environment) must be less than or equal to 10" in told


@pytest.mark.parametrize("name", ["Rates", "rates__eu", "1st", "ra tes", ""])
def test_a_name_that_no_variable_could_say_is_refused(name: str) -> None:
    assert f"SHOP_CLIENTS has the name {name!r}; a name is of" in refuse(
        clients={name: ClientSettings(base_url=RATES)}
    )


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://rates.example",
        "rates.example",
        "https://",
        "https://user:hunter2@rates.example",
        f"{RATES}?key=1",
    ],
)
def test_a_base_url_is_http_without_password_and_query(base_url: str, environment: Environment) -> None:
    environment(SHOP_CLIENTS__RATES__BASE_URL=base_url)

    told = refuse()

    assert "SHOP_CLIENTS__RATES__BASE_URL (from the environment) must be a URL" in told
    assert "hunter2" not in told


def test_a_proxy_is_http(environment: Environment) -> None:
    environment(SHOP_CLIENTS__RATES__BASE_URL=RATES, SHOP_CLIENTS__RATES__PROXY="socks5://proxy.example")

    assert "SHOP_CLIENTS__RATES__PROXY (from the environment) must be a URL" in refuse()


def test_explain_lists_each_client_and_hides_the_password_of_its_proxy(environment: Environment) -> None:
    environment(SHOP_CLIENTS__RATES__BASE_URL=RATES, SHOP_CLIENTS__RATES__PROXY="http://a:hunter2@proxy")

    shown = {origin.name: origin for origin in explain_settings(ShopSettings(), redactor=Redactor())}

    assert shown["clients.rates.base_url"].variable == "SHOP_CLIENTS__RATES__BASE_URL"
    assert (shown["clients.rates.base_url"].value, shown["clients.rates.base_url"].source) == (
        RATES,
        "environment",
    )
    assert "hunter2" not in shown["clients.rates.proxy"].value
    assert shown["clients.rates.timeout"].value == "10s"
    assert "clients" not in shown
    assert "" not in {origin.description for origin in shown.values() if origin.name.startswith("clients")}


def test_the_example_file_shows_how_and_what_the_code_declares() -> None:
    text = environment_example(BillingSettings)

    assert "#   SHOP_CLIENTS__<NAME>__BASE_URL=\n" in text
    assert "#   SHOP_CLIENTS__<NAME>__TIMEOUT=10s\n" in text
    assert "# SHOP_CLIENTS__BILLING__BASE_URL=https://billing.example\n" in text
    assert "BILLING" not in environment_example(ShopSettings)

"""What each environment signs with, and what production refuses."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backstay.errors import ConfigurationError
from backstay.security.key_file import write_key_ring
from backstay.security.keys import KeyRing, generate_key
from backstay.security.opening import find_audience, find_issuer, open_access_tokens, open_key_ring
from backstay.settings import DatabaseSettings, SecuritySettings, Settings

POSTGRESQL = DatabaseSettings(url=SecretStr("postgresql://shop:kX9-vb2@db/shop"))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(environment: Any, **security: Any) -> Settings:
    return Settings(
        environment=environment, database=POSTGRESQL, security=SecuritySettings(**security), _env_file=None
    )


def test_development_makes_keys_of_its_own_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ring = open_key_ring(make("development"))()
    path = Path(".backstay/keys.json")

    assert ring.is_development
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name(".gitignore").read_text() == "*\n"
    assert open_key_ring(make("development"))().keys[0].key_id == ring.keys[0].key_id
    assert [record.getMessage() for record in caplog.records] == [
        "Made keys for access tokens in .backstay/keys.json, for development only."
    ]


def test_of_two_processes_that_make_keys_both_take_those_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = open_key_ring(make("development"))()
    monkeypatch.setattr(Path, "exists", lambda _: False)  # the other one looked before they were there

    assert open_key_ring(make("development"))().keys[0].key_id == first.keys[0].key_id


def test_a_folder_that_cannot_be_written_is_told_with_the_way_out() -> None:
    Path(".backstay").touch()  # where the folder should be
    with pytest.raises(ConfigurationError, match=r"cannot be written to \.backstay/keys\.json") as caught:
        open_key_ring(make("development"))
    assert "BACKSTAY_SECURITY__KEY_FILE" in str(caught.value.hint)


def test_a_test_makes_keys_in_memory() -> None:
    give = open_key_ring(make("test", algorithm="ES256"))

    assert give() is give()
    assert give().keys[0].algorithm == "ES256"
    assert list(Path.cwd().iterdir()) == []


def test_production_without_keys_does_not_start_and_names_the_command() -> None:
    with pytest.raises(ConfigurationError, match="BACKSTAY_SECURITY__KEY_FILE is not set") as caught:
        open_key_ring(make("production"))
    assert "backstay keys generate" in str(caught.value.hint)


def test_production_without_an_issuer_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match="BACKSTAY_SECURITY__ISSUER is not set") as caught:
        find_issuer(make("production"))
    assert "BACKSTAY_SECURITY__ISSUER=https://shop.example" in str(caught.value.hint)


def test_production_refuses_the_keys_of_development() -> None:
    open_key_ring(make("development"))
    with pytest.raises(ConfigurationError, match="made for development"):
        open_key_ring(make("production", key_file=Path(".backstay/keys.json")))


def test_the_audience_is_the_issuer_unless_it_is_set() -> None:
    assert find_audience(make("development")) == find_issuer(make("test")) == "http://127.0.0.1:8000"
    assert find_audience(make("production", issuer="https://a.example")) == "https://a.example"
    assert find_audience(make("test", audience="orders")) == "orders"


@pytest.mark.parametrize("environment", ["development", "test", "production"])
def test_tokens_are_issued_and_verified_as_the_settings_say(environment: Any) -> None:
    path = Path("keys.json")
    write_key_ring(KeyRing((generate_key("EdDSA"),)), path)
    security: dict[str, Any] = {
        "key_file": path,
        "issuer": "https://a.example",
        "access_ttl": timedelta(minutes=5),
    }
    tokens = open_access_tokens(make(environment, **security))

    issued = tokens.issue("7", client_id="web")

    assert issued.expires_in == 300
    assert tokens.verify(issued.token.get_secret_value()).issuer == "https://a.example"

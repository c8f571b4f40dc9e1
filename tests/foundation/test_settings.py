import copy
import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    BaseModel,
    Field,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, TomlConfigSettingsSource

from backstay.errors import ConfigurationError
from backstay.redaction import Redactor
from backstay.settings import (
    DatabaseSettings,
    Duration,
    HttpSettings,
    LoggingSettings,
    SecretUrl,
    ServerSettings,
    SettingOrigin,
    Settings,
    SettingsConfigDict,
    SettingsSection,
    environment_example,
    explain_settings,
    unknown_variables,
)

CANARY = "canary-7f3a-hunter2"
PRODUCTION_URL = "postgresql://shop:kX9-vb2@db/shop"


class Speed(Enum):
    SLOW = "slow"
    FAST = "fast"


class LimitSettings(SettingsSection):
    """How much of anything."""

    per_second: float = Field(0.5, description="Calls in a second.")
    burst: int | None = Field(None, description="Calls at once.")


class StripeSettings(SettingsSection):
    """How to reach Stripe."""

    key: SecretStr = Field(description="The API key.")
    timeout: Duration = Field(timedelta(seconds=3), description="How long to wait.")
    limits: LimitSettings = LimitSettings(burst=7)

    @field_validator("key")
    @classmethod
    def _check_key(cls, key: SecretStr) -> SecretStr:
        if key.get_secret_value().startswith("bad"):
            raise ValueError(f"the key {key.get_secret_value()} is not one of Stripe's")
        return key


class Labels(RootModel[dict[str, str]]):
    pass


class ShopSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="SHOP_")
    ignored_variables: ClassVar[tuple[str, ...]] = ("SHOP_ADMIN_*",)

    database: DatabaseSettings = DatabaseSettings(pool_size=20)
    stripe: StripeSettings | None = None
    tags: list[str] = Field(["a", "b"], description="What it is about.")
    sizes: frozenset[int] = frozenset({2, 1})
    limits: dict[str, int] = Field({})
    speed: Speed = Speed.SLOW
    labels: Labels = Labels({})
    motto: str = "it's a 'good' day # really"
    wait: Duration = timedelta(milliseconds=1500)
    odd_wait: Duration = timedelta(microseconds=1500)
    ratio: Annotated[float, Field(gt=0)] | None = None
    signing_key: SecretStr = SecretStr("development-only")
    old_keys: tuple[SecretStr, ...] = ()
    raw_key: SecretBytes | None = None
    answer: Secret[int] | None = None
    replica: SecretUrl | None = None
    api_token: str = ""
    listen_port: int = Field(0, validation_alias=AliasChoices("PORT", "LISTEN_PORT"))


class NeedySettings(Settings):
    model_config = SettingsConfigDict(env_prefix="SHOP_")

    stripe: StripeSettings
    region: Literal["eu", "us"]
    speed: Speed
    mirrors: list[int]
    flag: bool | None


Environment = Callable[..., None]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("SHOP_", "BACKSTAY_")) or name == "PORT":
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
    # Nothing that a traceback could print holds the values either.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert caught.value.hint is not None
    return str(caught.value)


# Reading


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = Settings()

    assert (settings.name, settings.environment, settings.debug) == ("service", "development", False)
    assert settings.database.url.get_secret_value() == "sqlite:///service.db"
    assert settings.database.pool_timeout == timedelta(seconds=2)
    assert settings.database.upgrade_on_start is None
    assert settings.logging == LoggingSettings(level="INFO", format="auto", redact_keys=(), access=True)
    assert settings.http == HttpSettings(docs=None, cors_origins=(), max_body_bytes=1024 * 1024)
    assert settings.server == ServerSettings(host="127.0.0.1", port=8000, grace=timedelta(seconds=30))


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.debug = True  # type: ignore[misc]  # that is the point
    with pytest.raises(ValidationError):
        settings.database.pool_size = 3  # type: ignore[misc]  # that is the point


def test_the_environment_sets_any_setting_in_any_case(environment: Environment) -> None:
    environment(
        SHOP_NAME="shop",
        shop_debug="true",
        SHOP_DATABASE__URL="postgresql://u:p@h/d",
        SHOP_DATABASE__POOL_TIMEOUT="250ms",
        SHOP_LOGGING__LEVEL="debug",
        SHOP_HTTP__CORS_ORIGINS="https://a.example, https://b.example,",
        SHOP_HTTP__DOCS="false",
        SHOP_TAGS='["x, y", "z"]',
        SHOP_SIZES="3,4",
        SHOP_LIMITS='{"a": 1}',
        SHOP_SPEED="fast",
        SHOP_LABELS='{"a": "b"}',
        SHOP_MOTTO="[1, 2",
        SHOP_RATIO="0.25",
        SHOP_OLD_KEYS="k1,k2",
        SHOP_STRIPE__KEY="sk",
        SHOP_STRIPE__LIMITS__PER_SECOND="2",
        PORT="80",
    )
    settings = ShopSettings()

    assert (settings.name, settings.debug, settings.speed, settings.ratio) == ("shop", True, Speed.FAST, 0.25)
    assert settings.database.url.get_secret_value() == "postgresql://u:p@h/d"
    assert settings.database.pool_timeout == timedelta(milliseconds=250)
    assert settings.logging.level == "DEBUG"
    assert settings.http.cors_origins == ("https://a.example", "https://b.example")
    assert settings.http.docs is False
    assert (settings.tags, settings.limits) == (["x, y", "z"], {"a": 1})
    assert settings.sizes == frozenset({3, 4})
    assert (settings.labels.root, settings.motto) == ({"a": "b"}, "[1, 2")
    assert [key.get_secret_value() for key in settings.old_keys] == ["k1", "k2"]
    assert settings.stripe is not None
    assert settings.stripe.key.get_secret_value() == "sk"
    assert settings.stripe.limits.per_second == 2
    assert settings.listen_port == 80


def test_a_section_default_of_the_class_survives_a_variable_beside_it(environment: Environment) -> None:
    environment(SHOP_DATABASE__POOL_OVERFLOW="1", SHOP_STRIPE__KEY="k")
    settings = ShopSettings()

    assert (settings.database.pool_size, settings.database.pool_overflow) == (20, 1)
    assert settings.stripe is not None
    assert settings.stripe.limits.burst == 7


def test_a_section_can_be_given_as_json_and_refined(environment: Environment) -> None:
    environment(SHOP_DATABASE='{"pool_overflow": 1, "echo": true}', SHOP_DATABASE__ECHO="false")
    settings = ShopSettings()

    assert (settings.database.pool_size, settings.database.pool_overflow) == (20, 1)
    assert settings.database.echo is False
    assert settings.find_source("database.pool_overflow") == "environment"
    assert settings.find_source("database.pool_size") == "default"


def test_an_empty_variable_is_one_that_is_not_set(environment: Environment) -> None:
    environment(SHOP_NAME="", SHOP_DATABASE__URL=" ", SHOP_NAME_FILE="")
    assert ShopSettings().name == "service"


def test_the_environment_wins_over_the_env_file_and_that_over_secret_files(
    tmp_path: Path, environment: Environment
) -> None:
    secrets = tmp_path / "secrets"
    (secrets / "kubernetes.io").mkdir(parents=True)
    for name in ("shop_name", "SHOP_SERVER__HOST", "shop_server__port", "other"):
        (secrets / name).write_text("1\n")
    (secrets / "shop_signing_key").write_text("  a key \r\n")
    (secrets / "shop_motto").write_text("\n")
    Path(".env").write_text("SHOP_SERVER__HOST=0.0.0.0\nSHOP_SERVER__PORT=2\nOTHER=x\nSHOP_DEBUG\n")
    environment(SHOP_SERVER__PORT="3")

    settings = ShopSettings(_secrets_dir=secrets)

    assert (settings.name, settings.server.host, settings.server.port) == ("1", "0.0.0.0", 3)  # noqa: S104
    assert settings.signing_key.get_secret_value() == "  a key "
    sources = {origin.name: origin.source for origin in explain_settings(settings)}
    assert sources["name"] == f"secrets file {secrets / 'shop_name'}"
    assert sources["server.host"] == ".env"
    assert sources["server.port"] == "environment"
    assert sources["server.grace"] == "default"


def test_a_variable_may_name_the_file_that_holds_the_value(tmp_path: Path, environment: Environment) -> None:
    (tmp_path / "url").write_text("postgresql://u:p@h/d\n")
    environment(SHOP_DATABASE__URL_FILE=str(tmp_path / "url"))
    Path(".env").write_text("SHOP_DATABASE__URL=sqlite://\n")

    settings = ShopSettings()

    assert settings.database.url.get_secret_value() == "postgresql://u:p@h/d"
    assert settings.find_source("database.url") == f"secrets file {tmp_path / 'url'}"


def test_arguments_win_over_everything(environment: Environment) -> None:
    environment(SHOP_DATABASE__POOL_SIZE="3", SHOP_DATABASE__ECHO="true", SHOP_DEBUG="1")
    environment(SHOP_SERVER__PORT="1")
    settings = ShopSettings(
        debug=False,
        server={"port": 2},
        database=DatabaseSettings(url=SecretStr("sqlite:///x.db")),
    )

    assert (settings.debug, settings.server.port) == (False, 2)
    assert (settings.database.pool_size, settings.database.echo) == (10, False)
    assert settings.find_source("database.echo") == "argument"
    assert settings.find_source("server.port") == "argument"
    assert settings.find_source("server.host") == "default"


def test_a_plain_text_is_accepted_where_a_secret_is_declared() -> None:
    settings = Settings(database=DatabaseSettings(url="sqlite:///x.db"))
    assert settings.database.url.get_secret_value() == "sqlite:///x.db"


@pytest.mark.parametrize("env_file", [None, [], ["missing.env"]])
def test_the_env_file_can_be_left_out(env_file: list[str] | None) -> None:
    Path(".env").write_text("SHOP_NAME=shop\n")
    assert ShopSettings(_env_file=env_file).name == "service"


def test_a_file_format_can_be_added_below_the_environment(environment: Environment) -> None:
    class TomlSettings(ShopSettings):
        model_config = SettingsConfigDict(toml_file="shop.toml")

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *args: Any, **sources: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            built_in = super().settings_customise_sources(settings_cls, *args, **sources)
            return (*built_in, TomlConfigSettingsSource(settings_cls))

    Path("shop.toml").write_text('name = "toml"\n[database]\nurl = "postgresql://u:kX9-vb2@h/d"\n')
    environment(SHOP_NAME="shop", SHOP_ENVIRONMENT="production", SHOP_SIGNING_KEY="kX9")

    settings = TomlSettings()

    assert settings.name == "shop"
    sources = {origin.name: origin.source for origin in explain_settings(settings)}
    assert (sources["database.url"], sources["debug"]) == ("another source", "default")


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("2", timedelta(seconds=2)),
        ("1.5 s", timedelta(seconds=1.5)),
        ("15m", timedelta(minutes=15)),
        ("1h", timedelta(hours=1)),
        ("1d", timedelta(days=1)),
        ("1h30m", timedelta(minutes=90)),
        ("1w", timedelta(weeks=1)),
        ("PT2S", timedelta(seconds=2)),
    ],
)
def test_durations_are_written_as_people_write_them(text: str, duration: timedelta) -> None:
    assert ServerSettings.model_validate({"grace": text}).grace == duration


@pytest.mark.parametrize("grace", ["soon", "-2s", "-PT2S", "1.2.3", "999999999w", timedelta(seconds=-1)])
def test_what_is_no_duration_is_refused(grace: object) -> None:
    with pytest.raises(ValidationError):
        ServerSettings.model_validate({"grace": grace})


@pytest.mark.parametrize(
    ("url", "in_memory"),
    [
        ("sqlite://", True),
        (":memory:", True),
        ("sqlite:///:memory:", True),
        ("sqlite+aiosqlite:///file:x?mode=memory&uri=true", True),
        ("sqlite:///service.db", False),
        ("sqlite:////var/lib/service.db", False),
        (PRODUCTION_URL, False),
    ],
)
def test_a_database_knows_whether_it_is_in_memory(url: str, in_memory: bool) -> None:
    assert DatabaseSettings(url=SecretStr(url)).is_in_memory is in_memory


# Misspelt variables


def test_a_misspelt_variable_stops_the_start_and_is_told_with_the_nearest(environment: Environment) -> None:
    environment(SHOP_DATABSE__URL=CANARY, SHOP_HTTP__CORS_ORIGIN="x")
    Path(".env").write_text("SHOP_DEBUGG=1\nOTHER=1\n")

    message = refuse()

    assert "SHOP_DATABSE__URL (from the environment) is not a setting of this service." in message
    assert "Did you mean 'SHOP_DATABASE__URL'?" in message
    assert "Did you mean 'SHOP_HTTP__CORS_ORIGINS'?" in message
    assert "SHOP_DEBUGG (from .env)" in message
    assert CANARY not in message
    names = [(unknown.name, unknown.source) for unknown in unknown_variables(ShopSettings)]
    assert sorted(names) == [
        ("SHOP_DATABSE__URL", "environment"),
        ("SHOP_DEBUGG", ".env"),
        ("SHOP_HTTP__CORS_ORIGIN", "environment"),
    ]


def test_a_misspelt_secret_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "shop_nmae").write_text("x")
    assert "shop_nmae (from secrets file" in refuse(_secrets_dir=[tmp_path, tmp_path / "missing"])


def test_variables_of_others_with_our_prefix_are_left_alone(environment: Environment) -> None:
    """Kubernetes adds the first five for a service that is called `shop`."""
    environment(
        SHOP_SERVICE_HOST="10.0.0.1",
        SHOP_SERVICE_PORT_HTTP="80",
        SHOP_PORT="tcp://10.0.0.1:80",
        SHOP_PORT_80_TCP="tcp://10.0.0.1:80",
        SHOP_PORT_80_TCP_ADDR="10.0.0.1",
        SHOP_ADMIN_NAME="x",
        SHOPPING="x",
    )
    assert unknown_variables(ShopSettings) == []
    assert ShopSettings().name == "service"
    environment(SHOP_PORT="8000")
    assert "SHOP_PORT (from the environment)" in refuse()


def test_without_a_prefix_nothing_can_be_misspelt(environment: Environment) -> None:
    class Bare(Settings):
        model_config = SettingsConfigDict(env_prefix="")

    environment(DEBUGG="1", SERVER__PORT="5")
    assert Bare().server.port == 5


# Bad values


def test_all_bad_values_are_told_at_once_with_variable_and_example(environment: Environment) -> None:
    environment(
        SHOP_ENVIRONMENT="prod",
        SHOP_DEBUG="maybe",
        SHOP_DATABASE__URL=f"postgres://u:{CANARY}@h/d",
        SHOP_DATABASE__POOL_TIMEOUT="soon",
        SHOP_DATABASE__POOL_SIZE="0",
        SHOP_SERVER__PORT="80x",
        SHOP_LIMITS="a=1",
        SHOP_SPEED="warp",
        SHOP_SIZES="1,x,y",
        SHOP_TAGS="[1",
        SHOP_RATIO="0",
        SHOP_STRIPE__KEY=f"bad{CANARY}",
    )
    message = refuse()

    assert message.startswith("12 settings are wrong:\n- ")
    for line in (
        "SHOP_ENVIRONMENT (from the environment) must be 'development', 'test' or 'production', for example "
        "SHOP_ENVIRONMENT=development.",
        "SHOP_DEBUG (from the environment) must be a valid boolean, for example SHOP_DEBUG=false.",
        "SHOP_DATABASE__URL (from the environment) must start with postgresql://, not postgres://, "
        "for example SHOP_DATABASE__URL=postgresql://shop:<password>@localhost/shop.",
        "SHOP_DATABASE__POOL_TIMEOUT (from the environment) must be a duration such as 250ms, 2s, 15m, 1h30m "
        "or 1d, for example SHOP_DATABASE__POOL_TIMEOUT=2s.",
        "SHOP_DATABASE__POOL_SIZE (from the environment) must be greater than or equal to 1, for example",
        "SHOP_SERVER__PORT (from the environment) must be a valid integer, for example "
        "SHOP_SERVER__PORT=8000.",
        "SHOP_LIMITS (from the environment) must be a valid dictionary, for example SHOP_LIMITS={}.",
        "SHOP_SPEED (from the environment) must be 'slow' or 'fast', for example SHOP_SPEED=slow.",
        "SHOP_SIZES (from the environment) must be a valid integer, for example SHOP_SIZES=1,2.",
        "SHOP_TAGS (from the environment) must be a valid list, for example SHOP_TAGS=a,b.",
        "SHOP_RATIO (from the environment) must be greater than 0, for example SHOP_RATIO=0.5.",
        "SHOP_STRIPE__KEY (from the environment) the key [redacted] is not one of Stripe's, for example "
        "SHOP_STRIPE__KEY=<value>.",
    ):
        assert line in message
    assert CANARY not in message


def test_a_bad_section_is_told_by_its_variable(environment: Environment) -> None:
    environment(SHOP_DATABASE="sqlite://", SHOP_DATABASE__ECHO="true")
    assert refuse().startswith("SHOP_DATABASE (from the environment) must be a valid dictionary")


def test_an_unknown_name_inside_a_section_is_told_with_the_nearest(environment: Environment) -> None:
    environment(SHOP_DATABASE='{"pool_sise": 3}')
    assert refuse() == (
        "database.pool_sise is not a setting of this service. Did you mean 'database.pool_size'?"
    )
    assert "zzz is not a setting of this service." in refuse(zzz=1)


def test_each_required_setting_that_is_missing_is_told() -> None:
    message = refuse(NeedySettings)

    assert "SHOP_STRIPE__KEY is required, for example SHOP_STRIPE__KEY=<value>." in message
    assert "SHOP_REGION is required, for example SHOP_REGION=eu." in message
    assert "SHOP_SPEED is required, for example SHOP_SPEED=slow." in message
    assert "SHOP_MIRRORS is required, for example SHOP_MIRRORS=1." in message
    assert "SHOP_FLAG is required, for example SHOP_FLAG=true." in message
    assert message.startswith("5 settings are wrong")


def test_a_file_that_cannot_be_read_is_told_without_its_path(environment: Environment) -> None:
    """Because the secret itself is easily put into the variable that should name its file."""
    Path(".env").write_bytes(b"SHOP_NAME=\xff")
    Path("binary").write_bytes(b"\xff")
    environment(SHOP_STRIPE__KEY_FILE=CANARY, SHOP_NAME_FILE="binary", SHOP_DEBUG="1", SHOP_DEBUG_FILE="x")

    message = refuse(_secrets_dir="binary")

    assert "SHOP_STRIPE__KEY_FILE names a file that cannot be read: No such file or directory." in message
    assert "SHOP_NAME_FILE names a file that cannot be read: it is not UTF-8." in message
    assert "SHOP_DEBUG and SHOP_DEBUG_FILE are both set; remove one of them." in message
    assert ".env cannot be read: it is not UTF-8." in message
    assert CANARY not in message


def test_a_directory_that_cannot_be_listed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_listing(path: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    # Not by permissions: root, who may run the tests, may list everything.
    monkeypatch.setattr(Path, "iterdir", refuse_listing)
    assert refuse(_secrets_dir="secrets") == "secrets cannot be read: Permission denied."


def test_a_validator_of_the_users_cannot_echo_a_secret(environment: Environment) -> None:
    class Echoing(ShopSettings):
        @model_validator(mode="before")
        @classmethod
        def _quote(cls, values: dict[str, Any]) -> dict[str, Any]:
            raise ValueError(f"I dislike {values['signing_key']} and {values['stripe']['key']}")

    environment(SHOP_SIGNING_KEY=CANARY, SHOP_STRIPE__KEY=f"sk-{CANARY}")
    assert refuse(Echoing) == "Echoing I dislike [redacted] and [redacted]."


@given(secret=st.text("abcXYZ0189-_/+=", min_size=8, max_size=40))
def test_no_message_shows_a_secret(secret: str) -> None:
    secret = f"Q{secret}Q"
    with pytest.raises(ConfigurationError) as caught:
        ShopSettings(
            _env_file=None,
            environment="production",
            database={"url": f"mysql://u:{secret}@h/d", "pool_size": "x"},
            stripe={"key": f"bad{secret}"},
            signing_key=[secret],
            raw_key={secret: secret},
            answer=secret,
        )
    assert secret not in str(caught.value)


# What is refused


def test_production_tells_everything_that_it_refuses_at_once(environment: Environment) -> None:
    environment(
        SHOP_ENVIRONMENT="production",
        SHOP_DEBUG="true",
        SHOP_DATABASE__URL="sqlite:///:memory:",
        SHOP_STRIPE__KEY="Development-key",
        SHOP_OLD_KEYS="fine,development-2",
        SHOP_RAW_KEY="development-raw",
    )
    message = refuse()

    assert "SHOP_DEBUG=true is refused in production." in message
    assert "SHOP_DATABASE__URL is a SQLite database in memory, which production refuses" in message
    assert "SHOP_STRIPE__KEY starts with 'development'" in message
    assert "SHOP_OLD_KEYS starts with 'development'" in message
    assert "SHOP_RAW_KEY starts with 'development'" in message
    assert "SHOP_SIGNING_KEY is left at its default, which production refuses; set it." in message
    assert message.startswith("6 settings are wrong")


def test_production_refuses_a_secret_that_equals_its_default(environment: Environment) -> None:
    class Lax(Settings):
        model_config = SettingsConfigDict(env_prefix="SHOP_")
        key: SecretStr = SecretStr("s3cret")

    environment(SHOP_ENVIRONMENT="production", SHOP_DATABASE__URL=PRODUCTION_URL, SHOP_KEY="s3cret")
    assert refuse(Lax) == "SHOP_KEY is left at its default, which production refuses; set it."


def test_production_wants_the_database_to_be_named(environment: Environment) -> None:
    environment(SHOP_ENVIRONMENT="production", SHOP_SIGNING_KEY="kX9")
    assert refuse() == "SHOP_DATABASE__URL is left at its default, which production refuses; set it."
    environment(SHOP_DATABASE__URL="sqlite:///service.db")
    assert ShopSettings().environment == "production"


@pytest.mark.parametrize(
    "password",
    [
        "postgres",
        "changeme",
        "CHANGEME",
        "password",
        "shop-api",
        "shop_api",
        "owner",
        "development1",
        "%70ass",
    ],
)
def test_production_refuses_a_well_known_password(password: str, environment: Environment) -> None:
    environment(
        SHOP_NAME="shop-api",
        SHOP_ENVIRONMENT="production",
        SHOP_SIGNING_KEY="kX9",
        SHOP_DATABASE__URL=f"postgresql://owner:{password}@db/shop",
    )
    assert refuse() == (
        "SHOP_DATABASE__URL has a well-known password, which production refuses; choose a random one."
    )


@pytest.mark.parametrize("url", [PRODUCTION_URL, "postgresql://shop@db/shop", "postgresql:///shop?host=/run"])
def test_production_starts_with_proper_secrets(url: str, environment: Environment) -> None:
    environment(
        SHOP_ENVIRONMENT="production",
        SHOP_SIGNING_KEY="kX9",
        SHOP_DATABASE__URL=url,
        SHOP_REPLICA="postgresql://[broken",
    )
    assert ShopSettings().environment == "production"


@pytest.mark.parametrize("name", ["development", "test", "production"])
def test_any_origin_with_credentials_is_refused_everywhere(name: str, environment: Environment) -> None:
    environment(SHOP_ENVIRONMENT=name, SHOP_HTTP__CORS_ORIGINS="*", SHOP_HTTP__CORS_CREDENTIALS="true")
    assert "SHOP_HTTP__CORS_ORIGINS=* lets any page use the visitor's cookies" in refuse()


# Showing


def test_no_representation_shows_a_secret() -> None:
    settings = ShopSettings(
        database=DatabaseSettings(url=SecretStr(f"postgresql://u:{CANARY}@h/d")),
        stripe=StripeSettings(key=SecretStr(CANARY)),
        raw_key=CANARY.encode(),
        old_keys=[CANARY],
    )
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.stripe)):
        assert CANARY not in shown


def test_explain_names_variable_value_source_and_description(environment: Environment) -> None:
    environment(
        SHOP_DATABASE__URL=f"postgresql://u:{CANARY}@h/d",
        SHOP_SIGNING_KEY=CANARY,
        SHOP_API_TOKEN=CANARY,
        SHOP_OLD_KEYS=CANARY,
        SHOP_MOTTO=f"see https://u:{CANARY}@h/",
    )
    settings = ShopSettings()
    shown = {origin.name: origin for origin in explain_settings(settings, redactor=Redactor())}

    assert shown["database.url"] == SettingOrigin(
        name="database.url",
        variable="SHOP_DATABASE__URL",
        value="postgresql://u:[redacted]@h/d",
        source="environment",
        description=DatabaseSettings.model_fields["url"].description or "",
    )
    assert {name: shown[name].value for name in ("signing_key", "api_token", "old_keys", "motto")} == {
        "signing_key": "[redacted]",
        "api_token": "[redacted]",
        "old_keys": "[redacted]",
        "motto": "see https://u:[redacted]@h/",
    }
    assert shown["http.cors_credentials"].value == "false"
    assert shown["http.docs"].value == "none"
    assert shown["listen_port"].variable == "PORT"
    assert "stripe" not in shown
    assert shown["stripe.key"].value == "none"
    assert CANARY not in str(shown)


def test_explain_without_a_redactor_masks_what_is_typed_as_a_secret() -> None:
    settings = ShopSettings(database=DatabaseSettings(url=SecretStr(f"postgresql://u:{CANARY}@h/d")))
    shown = {origin.name: origin.value for origin in explain_settings(settings)}

    assert shown["database.url"] == shown["signing_key"] == "[redacted]"
    assert (shown["wait"], shown["odd_wait"]) == ("1500ms", "0.001500")
    assert (shown["sizes"], shown["speed"]) == ("1,2", "slow")


def test_every_setting_of_ours_has_a_description() -> None:
    assert [origin.name for origin in explain_settings(Settings()) if not origin.description] == []


def test_the_example_file_has_every_setting_by_section() -> None:
    text = environment_example(NeedySettings)

    assert "# SHOP_NAME=service\n" in text
    assert "# --- database: Where the data lives, and how long to wait for it.\n" in text
    assert "# The lowest level that is written. One of DEBUG, INFO, WARNING, ERROR, CRITICAL.\n" in text
    assert "# SHOP_LOGGING__LEVEL=INFO\n" in text
    assert "# The API key. Required.\n# SHOP_STRIPE__KEY=\n" in text
    assert "# One of eu, us. Required.\n# SHOP_REGION=\n" in text
    assert "# --- stripe.limits: How much of anything.\n" in text
    assert all(line.startswith("#") for line in text.splitlines() if line)


def test_the_example_file_uncommented_is_what_the_defaults_say() -> None:
    lines = environment_example(ShopSettings).splitlines()
    settings = [line.removeprefix("# ") for line in lines if line.startswith(("# SHOP_", "# PORT="))]
    Path("all.env").write_text("\n".join(line for line in settings if "STRIPE" not in line))

    assert len(settings) == len(explain_settings(ShopSettings()))
    read = ShopSettings(_env_file="all.env")
    assert read.model_dump() == ShopSettings().model_dump()
    assert read.find_source("odd_wait") == "all.env"


class Node(SettingsSection):
    value: int = 0
    below: "Node | None" = None


def test_a_section_that_contains_itself_is_given_as_json(environment: Environment) -> None:
    class TreeSettings(Settings):
        model_config = SettingsConfigDict(env_prefix="SHOP_")
        tree: Node = Node()

    environment(SHOP_TREE__BELOW='{"value": 2}')
    assert TreeSettings().tree.below == Node(value=2)
    assert "tree.below" in [origin.name for origin in explain_settings(TreeSettings())]


def test_plain_models_aliases_and_factories_work_as_sections(environment: Environment) -> None:
    class Plain(BaseModel):
        port: int = Field(1, alias="thePort")
        parts: tuple[tuple[int, int], ...] = ((1, 2),)
        words: tuple[str, ...] = ("a b", "c,d")

    class PlainSettings(Settings):
        model_config = SettingsConfigDict(env_prefix="SHOP_")
        plain: Plain = Field(default_factory=Plain)
        region: str = Field("eu", validation_alias="REGION")
        anything: int | list[int] = 1
        title: str = Field(default_factory=lambda values: f"The {values['name']}")

    environment(SHOP_PLAIN__PORT="5", SHOP_ANYTHING="[1, 2]", REGION="us")
    settings = PlainSettings()

    assert (settings.plain.port, settings.region, settings.anything) == (5, "us", [1, 2])
    shown = {origin.name: origin.value for origin in explain_settings(settings)}
    assert (shown["plain.parts"], shown["plain.words"]) == ("[[1, 2]]", '["a b", "c,d"]')
    assert settings.find_source("region") == "environment"
    assert [origin.source for origin in explain_settings(settings) if origin.name == "title"] == ["default"]
    assert "# SHOP_TITLE=\n" in environment_example(PlainSettings)


def test_settings_can_be_copied_and_pickled() -> None:
    settings = Settings(name="shop")
    for twin in (copy.deepcopy(settings), pickle.loads(pickle.dumps(settings))):  # noqa: S301
        assert twin == settings
        assert twin.find_source("name") == "argument"


def test_the_variables_of_the_test_plugin_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BACKSTAY_REQUIRE_SERVERS", "BACKSTAY_PROVE", "BACKSTAY_TEST_POSTGRES_URL"):
        monkeypatch.setenv(name, "1")

    assert Settings().name == "service"

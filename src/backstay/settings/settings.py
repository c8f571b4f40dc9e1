"""The settings of a service: one class, read and checked once, before the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from backstay.settings._fields import SettingField, find_entries, list_fields, parse_variable, read_default
from backstay.settings._problems import describe_errors, list_refusals, to_error
from backstay.settings._variables import FilePaths, UnknownVariable, Variables, read_variables
from backstay.settings.sections import (
    CacheSettings,
    ClientName,
    ClientSettings,
    DatabaseSettings,
    HttpSettings,
    IdempotencySettings,
    LoggingSettings,
    MigrationSettings,
    ServerSettings,
    TelemetrySettings,
)
from backstay.settings.security import SecuritySettings

__all__ = ["Settings", "unknown_variables"]

_FROM_CONFIG: Final[FilePaths] = Path("<what model_config says>")


class Settings(BaseSettings):
    """Every knob of a service; subclass it with a prefix, and with fields and sections of your own.

        class Settings(backstay.Settings):
            model_config = SettingsConfigDict(env_prefix="SHOP_")
            stripe: StripeSettings

    `SHOP_DATABASE__URL` then sets `settings.database.url`. The first of these wins: arguments, the
    environment, `.env`, files in /run/secrets named like the variables. `SHOP_DATABASE__URL_FILE` names a
    file that holds the value. Collections are separated by commas; anything else that is not one value, also
    a whole section, is JSON. An empty variable counts as not set. A `dict` of sections takes
    its names from the variables: `SHOP_CLIENTS__RATES__BASE_URL` sets `settings.clients["rates"].base_url`.

    In code, sections are given whole: `Settings(database=DatabaseSettings(url=SecretStr("sqlite://")))`.

    Raises:
        ConfigurationError: A value is bad, a variable with this prefix is unknown, a file cannot be read, or
            production refuses something: development secrets, secrets and database URLs left at their
            defaults, well-known passwords, SQLite in memory, debug. It tells all of it at once.
    """

    model_config = SettingsConfigDict(
        env_prefix="BACKSTAY_",
        env_nested_delimiter="__",
        env_file=".env",
        secrets_dir="/run/secrets",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    # The library's own test plugin has some; a class without a prefix would take them for settings.
    ignored_variables: ClassVar[tuple[str, ...]] = (
        "BACKSTAY_TEST_*",
        "BACKSTAY_REQUIRE_SERVERS",
        "BACKSTAY_PROVE",
    )
    """Variables with our prefix that belong to somebody else, as patterns: `("SHOP_ADMIN_*",)`."""

    name: str = Field(
        default="service", min_length=1, description="What the service is called in logs and titles."
    )
    environment: Literal["development", "test", "production"] = Field(
        default="development",
        description="In production, unsafe values of the other settings stop the start.",
    )
    debug: bool = Field(default=False, description="Show tracebacks to callers. Never in production.")
    database: DatabaseSettings = DatabaseSettings()
    migrations: MigrationSettings = MigrationSettings()
    cache: CacheSettings = CacheSettings()
    logging: LoggingSettings = LoggingSettings()
    http: HttpSettings = HttpSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    clients: dict[ClientName, ClientSettings] = Field(
        default={},
        description="The services that this one calls, by names that you choose.",
        examples=[{"rates": {"base_url": "https://rates.example/v1"}}],
    )
    security: SecuritySettings = SecuritySettings()
    server: ServerSettings = ServerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(
        self, *, _env_file: FilePaths = _FROM_CONFIG, _secrets_dir: FilePaths = _FROM_CONFIG, **values: Any
    ) -> None:
        settings_class = type(self)
        variables = _read_variables(settings_class, env_file=_env_file, secrets_dir=_secrets_dir)
        problems = [*variables.problems, *map(str, variables.unknown)]
        try:
            found = _nest_variables(settings_class, variables)
            super().__init__(_env_file=None, **_merge(found, values))
        except ValidationError as error:
            problems += describe_errors(settings_class, error, variables)
        else:
            fields = list_fields(settings_class, find_entries(self))
            self._sources = dict(_list_sources(fields, values, variables))
            problems += list_refusals(self, self._sources)
        if problems:
            raise to_error(problems)

    def find_source(self, name: str) -> str:
        """Return where `database.url` came from: `default`, `environment`, `argument`, or which file."""
        return self._sources.get(name, "default")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the one source, what `__init__` has read; override it to append a file format."""
        return (init_settings,)


def unknown_variables(settings_class: type[Settings]) -> list[UnknownVariable]:
    """Return the variables with the prefix of the class that set nothing; each of them stops the start."""
    return _read_variables(settings_class, env_file=_FROM_CONFIG, secrets_dir=_FROM_CONFIG).unknown


def _read_variables(
    settings_class: type[Settings], *, env_file: FilePaths, secrets_dir: FilePaths
) -> Variables:
    config = settings_class.model_config
    return read_variables(
        settings_class,
        env_file=config.get("env_file") if env_file is _FROM_CONFIG else env_file,
        secrets_dir=config.get("secrets_dir") if secrets_dir is _FROM_CONFIG else secrets_dir,
    )


def _nest_variables(settings_class: type[Settings], variables: Variables) -> dict[str, Any]:
    """Return what was found as the nested dict that Pydantic validates; a section starts from its default."""
    nested: dict[str, Any] = {}
    for field in variables.fields:
        found = _find_variable(field, variables)
        if found is None:
            continue
        parent = _open_parent(settings_class, nested, field, fields=variables.fields)
        if parent is not None:
            key, value = field.keys[-1], parse_variable(field, found)
            if not field.is_single and isinstance(value, dict):
                value = {**_read_section_default(settings_class, field), **value}
            parent[key] = value
    return nested


def _find_variable(field: SettingField, variables: Variables) -> str | None:
    return next((variables.found[name].value for name in field.variables if name in variables.found), None)


def _open_parent(
    settings_class: type[Settings],
    nested: dict[str, Any],
    field: SettingField,
    *,
    fields: Sequence[SettingField],
) -> dict[str, Any] | None:
    """Return the dict of the section around a field; None when its own variable holds something else."""
    parent: Any = nested
    for section in fields:
        if section.path == field.path[: len(section.path)] and section.path != field.path:
            key = section.keys[-1]
            if not isinstance(parent.get(key), dict | str):
                parent[key] = _read_section_default(settings_class, section)
            parent = parent[key]
            if not isinstance(parent, dict):
                return None
    return parent  # type: ignore[no-any-return]  # a dict, by the line above


def _read_section_default(settings_class: type[Settings], section: SettingField) -> dict[str, Any]:
    default = read_default(settings_class, section)
    if isinstance(default, Mapping):
        return dict(default)
    if not isinstance(default, BaseModel):
        return {}
    children = [field for field in list_fields(settings_class) if field.path[:-1] == section.path]
    return {child.keys[-1]: getattr(default, child.path[-1]) for child in children}


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]  # `both` has looked
    return merged


def _list_sources(
    fields: Sequence[SettingField], values: Mapping[str, Any], variables: Variables
) -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each setting that is not left at its default."""
    for field in fields:
        around = [each for each in fields if each.path == field.path[: len(each.path)]]
        if _is_given(values, field.keys):
            yield field.name, "argument"
        elif source := next(
            filter(None, (_find_source(each, field, variables) for each in around[::-1])), None
        ):
            yield field.name, source


def _is_given(value: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if isinstance(value, BaseModel):
            return True
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def _find_source(section: SettingField, field: SettingField, variables: Variables) -> str | None:
    """Return where the variable of the field, or of a section around it, was found, if it sets the field."""
    for name in section.variables:
        if name in variables.found:
            found = variables.found[name]
            keys = field.keys[len(section.keys) :]
            return found.source if _is_given(parse_variable(section, found.value), keys) else None
    return None

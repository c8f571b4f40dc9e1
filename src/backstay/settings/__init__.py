"""Every knob of a service: read from the environment, `.env` and secret files, checked before the start."""

from pydantic_settings import SettingsConfigDict

from backstay.settings._variables import UnknownVariable
from backstay.settings.durations import read_span
from backstay.settings.explain import (
    SettingOrigin,
    SettingRedactor,
    environment_example,
    explain_settings,
    variable_name,
)
from backstay.settings.sections import (
    CacheSettings,
    ClientSettings,
    DatabaseSettings,
    Duration,
    HttpSettings,
    IdempotencySettings,
    LoggingSettings,
    MigrationSettings,
    SecretUrl,
    ServerSettings,
    SettingsSection,
    TelemetrySettings,
)
from backstay.settings.security import SecuritySettings
from backstay.settings.settings import Settings, unknown_variables
from backstay.settings.strength import find_weak_secrets

__all__ = [
    "CacheSettings",
    "ClientSettings",
    "DatabaseSettings",
    "Duration",
    "HttpSettings",
    "IdempotencySettings",
    "LoggingSettings",
    "MigrationSettings",
    "SecretUrl",
    "SecuritySettings",
    "ServerSettings",
    "SettingOrigin",
    "SettingRedactor",
    "Settings",
    "SettingsConfigDict",
    "SettingsSection",
    "TelemetrySettings",
    "UnknownVariable",
    "environment_example",
    "explain_settings",
    "find_weak_secrets",
    "read_span",
    "unknown_variables",
    "variable_name",
]

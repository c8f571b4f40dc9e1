"""What is wrong with the settings, in words that name the variable and never a secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ValidationError

from backstay.errors import ConfigurationError, did_you_mean
from backstay.settings._fields import (
    SECRET_TYPES,
    UNSET,
    SettingField,
    find_entries,
    iterate_secrets,
    list_fields,
    read_default,
    read_value,
    render_value,
    reveal,
)
from backstay.settings._variables import Variables, say_source

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["describe_errors", "list_refusals", "to_error"]


def to_error(problems: Sequence[str]) -> ConfigurationError:
    """Return one error that tells all problems."""
    hint = "Settings come from the environment, .env and secret files; `backstay explain` lists them all."
    if len(problems) == 1:
        return ConfigurationError(problems[0], hint=hint)
    lines = "".join(f"\n- {problem}" for problem in problems)
    return ConfigurationError(f"{len(problems)} settings are wrong:{lines}", hint=hint)


def describe_errors(
    settings_class: type[BaseModel], error: ValidationError, variables: Variables
) -> Iterator[str]:
    """Yield a sentence for each setting that Pydantic refused."""
    described: dict[str, list[str]] = {}
    for details in error.errors(include_url=False):
        for subject, what in _describe(settings_class, details, variables):
            reasons = described.setdefault(subject, [])
            if what not in reasons:
                reasons.append(what)
    for subject, reasons in described.items():
        sentence = f"{subject} {', or '.join(reasons)}"
        yield sentence if sentence.endswith("?") else f"{sentence}."


def _describe(
    settings_class: type[BaseModel], details: ErrorDetails, variables: Variables
) -> Iterator[tuple[str, str]]:
    location = details["loc"]
    field = _find_field(variables, location)
    if details["type"] == "extra_forbidden":
        yield _describe_extra(variables, location)
    elif field is None:
        secrets = _list_raw_secrets(variables, (), details["input"])
        yield settings_class.__name__, _word(details, secrets=secrets)
    elif field.section is not None and details["type"] == "missing":
        yield from _describe_missing_section(variables, field)
    else:
        secrets = _list_raw_secrets(variables, field.path, details["input"])
        what = _word(details, secrets=secrets)
        yield f"{field.variable}{_say_source(field, variables)}", what + _say_example(field)


def _find_field(variables: Variables, location: Sequence[object]) -> SettingField | None:
    """Return the innermost setting that an error is about; its location may go on with an index or a type."""
    inside = [field for field in variables.fields if field.keys == tuple(location[: len(field.keys)])]
    return max(inside, key=lambda field: len(field.keys), default=None)


def _describe_extra(variables: Variables, location: Sequence[object]) -> tuple[str, str]:
    name = ".".join(map(str, location))
    known = [field.name for field in variables.fields]
    suggestion = did_you_mean(name, known)
    return name, "is not a setting of this service" + (suggestion and f".{suggestion}")


def _describe_missing_section(variables: Variables, section: SettingField) -> Iterator[tuple[str, str]]:
    for field in variables.fields:
        below = field.path[: len(section.path)] == section.path and field.is_single
        if below and field.info.is_required():
            yield field.variable, f"is required{_say_example(field)}"


def _word(details: ErrorDetails, *, secrets: Sequence[str]) -> str:
    if details["type"] == "missing":
        return "is required"
    if details["type"] == "time_delta_parsing":
        return "must be a duration such as 250ms, 2s, 15m, 1h30m or 1d"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    if details["type"] in _WORDY:
        message = message.partition(",")[0]
    # A validator of the user's may quote what it was given.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        message = message.replace(secret, "[redacted]")
    return message.replace("Input should", "must", 1)


# Their messages go on with how Pydantic noticed.
_WORDY: Final = frozenset({"int_parsing", "float_parsing", "bool_parsing"})


def _list_raw_secrets(variables: Variables, path: tuple[str, ...], given: Any) -> list[str]:
    """Return the secrets in what was given for the setting, or the section, at this path."""
    secrets: list[str] = []
    for field in variables.fields:
        if field.is_secret and field.path[: len(path)] == path:
            value = _dig(given, field.keys[len(path) :])
            secrets += [*iterate_secrets(value)] or ([] if value is None else [reveal(value)])
    return secrets


def _dig(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
    return value


def _say_source(field: SettingField, variables: Variables) -> str:
    found = next((variables.found[name] for name in field.variables if name in variables.found), None)
    return f" (from {say_source(found.source)})" if found else ""


def _say_example(field: SettingField) -> str:
    return f", for example {field.variable}={_find_example(field)}"


def _find_example(field: SettingField) -> str:
    if field.info.examples:
        return render_value(field.info.examples[0])
    default = field.info.get_default(call_default_factory=False)
    if default is not None and default is not UNSET and not isinstance(default, (*SECRET_TYPES, BaseModel)):
        return render_value(default) or '""'
    return _find_example_by_type(field.info.annotation)


def _find_example_by_type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return render_value(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return render_value(next(iter(annotation)))
    if annotation in _EXAMPLES:
        return _EXAMPLES[annotation]
    return next((_find_example_by_type(member) for member in get_args(annotation)), "<value>")


_EXAMPLES: Final[dict[object, str]] = {bool: "true", int: "1", float: "0.5"}


def list_refusals(settings: BaseModel, sources: Mapping[str, str]) -> Iterator[str]:
    """Yield what is valid and still must not start: everywhere first, then what production refuses.

    Args:
        settings: The settings of the service.
        sources: Where each setting that is not left at its default came from.
    """
    fields = {field.name: field for field in list_fields(type(settings), find_entries(settings))}
    values: dict[str, Any] = {name: read_value(settings, field) for name, field in fields.items()}
    if "*" in values["http.cors_origins"] and values["http.cors_credentials"]:
        yield (
            f"{fields['http.cors_origins'].variable}=* lets any page use the visitor's cookies together with "
            f"{fields['http.cors_credentials'].variable}=true; name the origins."
        )
    if values["environment"] != "production":
        return
    if values["debug"]:
        yield f"{fields['debug'].variable}=true is refused in production."
    if values["database"].is_in_memory:
        yield (
            f"{fields['database.url'].variable} is a SQLite database in memory, which production refuses: "
            "it forgets everything at the stop."
        )
    yield from _list_security_refusals(fields, values)
    for field in fields.values():
        if field.is_single and field.is_secret:
            yield from _list_secret_refusals(settings, field, sources, service=values["name"])


def _list_security_refusals(fields: Mapping[str, SettingField], values: Mapping[str, Any]) -> Iterator[str]:
    issuer = values["security.issuer"]
    if issuer is not None and not issuer.startswith("https://"):
        yield f"{fields['security.issuer'].variable} must start with https:// in production."
    for name, least in _ARGON2_FLOORS.items():
        if values[name] < least:
            yield f"{fields[name].variable}={values[name]} is refused in production: {least} is the least."


# OWASP's password storage cheat sheet, the smallest parameters for Argon2id.
_ARGON2_FLOORS: Final = {"security.argon2_memory_kib": 19_456, "security.argon2_time_cost": 2}


def _list_secret_refusals(
    settings: BaseModel, field: SettingField, sources: Mapping[str, str], *, service: str
) -> Iterator[str]:
    value = read_value(settings, field)
    secrets = list(iterate_secrets(value))
    if not secrets:
        return
    is_default = value == read_default(type(settings), field)
    # A URL may well be set to what its default happens to be; a secret may not.
    if is_default and not (field.is_url and field.name in sources):
        yield f"{field.variable} is left at its default, which production refuses; set it."
    elif any(map(_is_development_secret, secrets)):
        yield f"{field.variable} starts with 'development', which production refuses; choose another."
    elif any(_has_known_password(url, service) for url in secrets):
        yield f"{field.variable} has a well-known password, which production refuses; choose a random one."


def _is_development_secret(secret: str) -> bool:
    return secret.strip().lower().startswith("development")


def _has_known_password(url: str, service: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if not parts.scheme or not parts.password:
        return False
    password = unquote(parts.password).lower()
    own = {service.lower(), service.lower().replace("-", "_"), unquote(parts.username or "").lower()}
    return password in _KNOWN_PASSWORDS or password in own or _is_development_secret(password)


_KNOWN_PASSWORDS: Final = frozenset(
    (
        *("postgres", "postgresql", "password", "passw0rd", "passwd", "pass", "secret", "<password>"),
        *("changeme", "change-me", "change_me", "changeit", "letmein", "qwerty", "default", "example"),
        *("admin", "root", "user", "test", "testing", "dev", "local", "app", "db", "database", "service"),
        *("1234", "12345", "123456", "12345678", "123456789", "backstay"),
    )
)

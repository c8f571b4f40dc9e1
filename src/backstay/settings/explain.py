"""The settings shown: each with its value and where it came from, and all of them as `.env.example`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, get_args, get_origin

from backstay.settings._fields import (
    SettingField,
    find_entries,
    iterate_secrets,
    list_fields,
    read_default,
    read_value,
    render_value,
)
from backstay.settings.settings import Settings

__all__ = ["SettingOrigin", "SettingRedactor", "environment_example", "explain_settings"]


@dataclass(frozen=True, slots=True)
class SettingOrigin:
    """One setting as it is, ready to be shown.

    Attributes:
        name: Its path: `database.url`.
        variable: The environment variable that sets it: `SHOP_DATABASE__URL`.
        value: Its value as text; `none` when it has none, `[redacted]` for a secret.
        source: `default`, `environment`, `.env`, `secrets file /run/secrets/x`, `argument`, `another source`.
        description: What it is for.
    """

    name: str
    variable: str
    value: str
    source: str
    description: str


class SettingRedactor(Protocol):
    """What masks the values; `backstay.redaction.Redactor` is one."""

    def is_sensitive_key(self, key: str, /) -> bool:
        """Return whether a value under this key must not be shown."""

    def redact_text(self, text: str, /) -> str:
        """Return the text without the secrets in it."""


def variable_name(settings: Settings, setting: str) -> str:
    """Return the environment variable of a setting: `SHOP_SERVER__PORT` for `server.port`."""
    return next(origin.variable for origin in explain_settings(settings) if origin.name == setting)


def explain_settings(settings: Settings, *, redactor: SettingRedactor | None = None) -> list[SettingOrigin]:
    """Return every setting with its value and where it came from, in the order of the class.

    Args:
        settings: The settings of the service.
        redactor: Masks the passwords in URLs, and plain texts that are called like a secret. Without one,
            what is typed as a secret is masked as a whole, and nothing else.
    """
    return [
        SettingOrigin(
            name=field.name,
            variable=field.variable,
            value=_show(read_value(settings, field), field, redactor),
            source=_find_source(settings, field),
            description=field.info.description or "",
        )
        for field in list_fields(type(settings), find_entries(settings))
        if field.is_single
    ]


def _show(value: object, field: SettingField, redactor: SettingRedactor | None) -> str:
    if value is None:
        return "none"
    text = render_value(value)
    if redactor is None:
        is_hidden = field.is_secret or any(iterate_secrets(value))
        return _HIDDEN if is_hidden else text
    is_named_secret = isinstance(value, str) and redactor.is_sensitive_key(field.path[-1])
    if field.is_url or not (field.is_secret or is_named_secret):
        return redactor.redact_text(text)
    return _HIDDEN


_HIDDEN: Final = "[redacted]"


def _find_source(settings: Settings, field: SettingField) -> str:
    source = settings.find_source(field.name)
    if source != "default" or field.info.default_factory is not None:
        return source
    is_default = read_value(settings, field) in (None, read_default(type(settings), field))
    return "default" if is_default else "another source"


def environment_example(settings_class: type[Settings]) -> str:
    """Return the text of `.env.example`: every setting, commented out, with its description and default."""
    lines = [
        "# Every setting of the service, with its default. Copy this file to .env, uncomment what changes.",
        "# The environment wins over .env. NAME_FILE instead of NAME names a file that holds the value.",
    ]
    fields = list_fields(settings_class)
    tops = [field for field in fields if len(field.path) == 1]
    for field in [field for field in tops if field.is_single]:
        lines += ["", *_describe(settings_class, field)]
    for section in [field for field in fields if not field.is_single]:
        lines += ["", f"# --- {section.name}: {_describe_section(section)}"]
        lines += _describe_entry(settings_class, section)
        for field in fields:
            if field.is_single and field.path[:-1] == section.path:
                lines += ["", *_describe(settings_class, field)]
    return "\n".join(lines) + "\n"


def _describe_section(section: SettingField) -> str:
    return (
        section.info.description
        or ((section.section or section.entry).__doc__ or "").strip().partition("\n")[0]
    )


def _describe_entry(settings_class: type[Settings], table: SettingField) -> Iterator[str]:
    """Yield what can be set in a section of a table, as a pattern: uncommented it sets nothing."""
    if table.entry is None:
        return
    example = (*table.path, "<name>")
    for field in list_fields(settings_class, frozenset({example})):
        if field.is_single and field.path[:-1] == example:
            yield "#"
            yield from (f"#   {line.removeprefix('# ')}" for line in _describe(settings_class, field))


def _describe(settings_class: type[Settings], field: SettingField) -> Iterator[str]:
    description = " ".join(filter(None, [field.info.description, _list_choices(field.info.annotation)]))
    if field.info.is_required():
        description = f"{description} Required.".strip()
    if description:
        yield f"# {' '.join(description.split())}"
    yield f"# {field.variable}={_quote(render_value(read_default(settings_class, field)))}"


def _list_choices(annotation: Any) -> str:
    if get_origin(annotation) is not Literal:
        return ""
    return f"One of {', '.join(map(str, get_args(annotation)))}."


def _quote(text: str) -> str:
    if re.fullmatch(r"[\w./:@,+%=&?~*<>{}\-]*", text, re.ASCII):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

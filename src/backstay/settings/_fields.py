"""The settings of a class as one flat list: paths, variables, how text becomes a value and back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from functools import cache
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from backstay.settings.sections import UrlMarker

__all__ = [
    "SECRET_TYPES",
    "UNSET",
    "SettingField",
    "iterate_secrets",
    "list_fields",
    "parse_variable",
    "read_default",
    "read_value",
    "render_value",
    "reveal",
]

SECRET_TYPES: Final = (SecretStr, SecretBytes, Secret)
UNSET: Final = PydanticUndefined


@dataclass(frozen=True, slots=True)
class SettingField:
    """One setting, or one section of them.

    Attributes:
        path: Its attribute names from the top: `("database", "url")`.
        keys: The names under which Pydantic takes it; the path, but for aliases.
        variables: The environment variables that set it, the usual one first, in capitals.
        info: What Pydantic knows about it.
        section: The model that it is made of; None for a single value.
    """

    path: tuple[str, ...]
    keys: tuple[str, ...]
    variables: tuple[str, ...]
    info: FieldInfo
    section: type[BaseModel] | None

    @property
    def name(self) -> str:
        """Its path with dots: `database.url`."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """The environment variable that usually sets it."""
        return self.variables[0]

    @property
    def is_secret(self) -> bool:
        """Whether its value, or a part of it, must not be shown."""
        return _holds_secret(self.info.annotation)

    @property
    def is_url(self) -> bool:
        """Whether it is a secret URL, of which only the password must not be shown."""
        options = (getattr(option, "__metadata__", ()) for option in get_args(self.info.annotation))
        return UrlMarker in self.info.metadata or any(UrlMarker in metadata for metadata in options)


@cache
def list_fields(settings_class: type[BaseModel]) -> tuple[SettingField, ...]:
    """Return every section and setting of the class, a section right before its settings."""
    prefix = str(settings_class.model_config.get("env_prefix", "")).upper()
    delimiter = str(settings_class.model_config.get("env_nested_delimiter") or "__").upper()
    fields: list[SettingField] = []
    for name, info in settings_class.model_fields.items():
        variables = _list_aliases(info) or [prefix + name.upper()]
        fields += _list_below((), name, info, variables=variables, delimiter=delimiter)
    return tuple(fields)


def _list_below(
    parents: tuple[SettingField, ...], name: str, info: FieldInfo, *, variables: Sequence[str], delimiter: str
) -> Iterator[SettingField]:
    parent = parents[-1] if parents else None
    section = _find_section(info.annotation)
    if section in [ancestor.section for ancestor in parents]:
        section = None  # a model that contains itself: give it as JSON
    field = SettingField(
        path=(*(parent.path if parent else ()), name),
        keys=(*(parent.keys if parent else ()), _find_key(name, info)),
        variables=tuple(variables),
        info=info,
        section=section,
    )
    yield field
    if section is not None:
        for child, child_info in section.model_fields.items():
            below = [f"{field.variable}{delimiter}{child.upper()}"]
            yield from _list_below((*parents, field), child, child_info, variables=below, delimiter=delimiter)


def _list_aliases(info: FieldInfo) -> list[str]:
    alias = info.validation_alias
    aliases = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [item.upper() for item in aliases if isinstance(item, str)]


def _find_key(name: str, info: FieldInfo) -> str:
    alias = info.validation_alias
    aliases = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return next((item for item in aliases if isinstance(item, str)), name)


def _find_section(annotation: object) -> type[BaseModel] | None:
    members = _list_members(annotation)
    if len(members) != 1 or not isinstance(members[0], type):
        return None
    is_section = issubclass(members[0], BaseModel) and not issubclass(members[0], RootModel)
    return members[0] if is_section else None


def _list_members(annotation: object) -> list[object]:
    """Return the types that an annotation allows, without None and metadata."""
    if get_origin(annotation) is Annotated:
        return _list_members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for each in get_args(annotation) for member in _list_members(each)]
    return [] if annotation in (None, NoneType) else [annotation]


def _holds_secret(annotation: object) -> bool:
    origin = get_origin(annotation) or annotation
    if isinstance(origin, type) and issubclass(origin, SECRET_TYPES):
        return True
    return any(map(_holds_secret, get_args(annotation)))


def parse_variable(field: SettingField, text: str) -> object:
    """Return what Pydantic shall validate: the text, its parts between commas, or the JSON in it."""
    members = [get_origin(member) or member for member in _list_members(field.info.annotation)]
    if any(member in _TEXT_TYPES for member in members):
        return text
    is_sequence = len(members) == 1 and _is_sequence(members[0])
    if text.lstrip().startswith("[" if is_sequence else ("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text  # Pydantic finds the words for it
    return [part.strip() for part in text.split(",") if part.strip()] if is_sequence else text


_TEXT_TYPES: Final = frozenset({str, bytes, SecretStr, SecretBytes, Secret, Literal})


def _is_sequence(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, Sequence | AbstractSet)


def read_value(settings: BaseModel, field: SettingField) -> object:
    """Return the value of a setting; None when its optional section is absent."""
    value: Any = settings
    for name in field.path:
        value = None if value is None else getattr(value, name)
    return value


def read_default(settings_class: type[BaseModel], field: SettingField) -> object:
    """Return the default of a setting, also one that came with a whole section; UNSET if required."""
    value: Any = UNSET
    model: type[BaseModel] = settings_class
    for name in field.path:
        info = model.model_fields[name]
        value = getattr(value, name) if isinstance(value, BaseModel) else _get_default(info)
        model = _find_section(info.annotation) or model
    return value


def _get_default(info: FieldInfo) -> object:
    if info.default_factory_takes_validated_data:
        return UNSET  # it depends on the other settings
    return info.get_default(call_default_factory=True)


def iterate_secrets(value: object) -> Iterator[str]:
    """Yield the text of each secret in a value."""
    if isinstance(value, SECRET_TYPES):
        yield reveal(value)
    elif isinstance(value, Mapping):
        yield from iterate_secrets(tuple(value.values()))
    elif isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes):
        for item in value:
            yield from iterate_secrets(item)


def reveal(secret: object) -> str:
    """Return the text of a secret value, or of one that was not validated yet."""
    content = secret.get_secret_value() if isinstance(secret, SECRET_TYPES) else secret
    return content.decode(errors="replace") if isinstance(content, bytes) else str(content)


def render_value(value: object) -> str:
    """Return the value as one would write it into a variable, secrets included; nothing for None."""
    if value is None or value is UNSET:
        return ""
    return next(render(value) for kind, render in _RENDERERS if isinstance(value, kind))


def _render_duration(value: timedelta) -> str:
    milliseconds = value / timedelta(milliseconds=1)
    for unit, size in _UNIT_SIZES:
        if milliseconds % size == 0:
            return f"{milliseconds / size:.0f}{unit}"
    return f"{value.total_seconds():f}"


_UNIT_SIZES: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def _render_json(value: object) -> str:
    return json.dumps(to_jsonable_python(value), ensure_ascii=False)


def _render_many(value: tuple[object, ...] | list[object] | AbstractSet[object]) -> str:
    if not all(isinstance(item, str | int) for item in value):
        return _render_json(value)
    parts = [render_value(item) for item in value]
    if not all(re.fullmatch(r"[^\s,\[][^,]*(?<!\s)", part) for part in parts):
        return _render_json(value)
    return ",".join(sorted(parts) if isinstance(value, AbstractSet) else parts)


_RENDERERS: Final[tuple[tuple[Any, Callable[[Any], str]], ...]] = (
    (bool, lambda value: str(value).lower()),
    (SECRET_TYPES, reveal),
    (timedelta, _render_duration),
    (Enum, lambda value: render_value(value.value)),
    ((str, int, float, PurePath), str),
    ((tuple, list, set, frozenset), _render_many),
    (object, _render_json),
)

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
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from backstay.settings.sections import UrlMarker

__all__ = [
    "SECRET_TYPES",
    "UNSET",
    "EntryPath",
    "SettingField",
    "find_entries",
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

EntryPath: TypeAlias = tuple[str, ...]
"""Where one section of a table is: `("clients", "rates")`."""


@dataclass(frozen=True, slots=True)
class SettingField:
    """One setting, or one section of them.

    Attributes:
        path: Its attribute names from the top: `("database", "url")`.
        keys: The names under which Pydantic takes it; the path, but for aliases.
        variables: The environment variables that set it, the usual one first, in capitals.
        info: What Pydantic knows about it.
        section: The model that it is made of; None for a single value.
        entry: The model of each of its sections, if it is a table of sections by name; else None.
    """

    path: tuple[str, ...]
    keys: tuple[str, ...]
    variables: tuple[str, ...]
    info: FieldInfo
    section: type[BaseModel] | None
    entry: type[BaseModel] | None = None

    @property
    def is_single(self) -> bool:
        """Whether it is one value, rather than a section or a table of them."""
        return self.section is None and self.entry is None

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
def list_fields(
    settings_class: type[BaseModel], entries: frozenset[EntryPath] = frozenset()
) -> tuple[SettingField, ...]:
    """Return every section and setting of the class, a section right before its settings.

    Args:
        settings_class: The class.
        entries: The sections of its tables, besides those that it has by default.
    """
    known = entries | _list_default_entries(settings_class)
    prefix = str(settings_class.model_config.get("env_prefix", "")).upper()
    delimiter = str(settings_class.model_config.get("env_nested_delimiter") or "__").upper()
    fields: list[SettingField] = []
    for name, info in settings_class.model_fields.items():
        variables = _list_aliases(info) or [prefix + name.upper()]
        listing = _Listing(delimiter, known)
        fields += listing.list_below((), name, info, variables=variables)
    return tuple(fields)


def _list_default_entries(settings_class: type[BaseModel]) -> frozenset[EntryPath]:
    defaults = {name: _get_default(info) for name, info in settings_class.model_fields.items()}
    return frozenset(_walk_entries((), defaults))


def find_entries(settings: BaseModel) -> frozenset[EntryPath]:
    """Return the sections of the tables in these settings."""
    return frozenset(_walk_entries((), _read_attributes(settings)))


def _walk_entries(path: EntryPath, values: Mapping[str, object]) -> Iterator[EntryPath]:
    for name, value in values.items():
        if isinstance(value, BaseModel):
            yield from _walk_entries((*path, name), _read_attributes(value))
        elif isinstance(value, Mapping):
            sections = {key: each for key, each in value.items() if isinstance(each, BaseModel)}
            yield from ((*path, name, key) for key in sections)
            yield from _walk_entries((*path, name), sections)


def _read_attributes(model: BaseModel) -> dict[str, object]:
    return {name: getattr(model, name) for name in type(model).model_fields}


@dataclass(frozen=True, slots=True)
class _Listing:
    delimiter: str
    entries: frozenset[EntryPath]

    def list_below(
        self, parents: tuple[SettingField, ...], name: str, info: FieldInfo, *, variables: Sequence[str]
    ) -> Iterator[SettingField]:
        field = _make_field(parents, name, info, variables)
        yield field
        for child, child_info in self._list_children(field):
            below = [f"{field.variable}{self.delimiter}{child.upper()}"]
            yield from self.list_below((*parents, field), child, child_info, variables=below)

    def _list_children(self, field: SettingField) -> Iterator[tuple[str, FieldInfo]]:
        if field.section is not None:
            yield from field.section.model_fields.items()
        elif field.entry is not None:
            for path in sorted(path for path in self.entries if path[:-1] == field.path):
                yield path[-1], FieldInfo.from_annotation(field.entry)


def _make_field(
    parents: tuple[SettingField, ...], name: str, info: FieldInfo, variables: Sequence[str]
) -> SettingField:
    parent = parents[-1] if parents else None
    section = _find_section(info.annotation)
    if section in [ancestor.section for ancestor in parents]:
        section = None  # a model that contains itself: give it as JSON
    return SettingField(
        path=(*(parent.path if parent else ()), name),
        keys=(*(parent.keys if parent else ()), _find_key(name, info)),
        variables=tuple(variables),
        info=info,
        section=section,
        entry=_find_entry(info.annotation),
    )


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


def _find_entry(annotation: object) -> type[BaseModel] | None:
    """Return the model of the sections in a table, which is a dict of them by name."""
    members = _list_members(annotation)
    arguments = get_args(members[0]) if len(members) == 1 and get_origin(members[0]) is dict else ()
    return _find_section(arguments[1]) if arguments else None


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
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def read_default(settings_class: type[BaseModel], field: SettingField) -> object:
    """Return the default of a setting, also one that came with a whole section; UNSET if required."""
    value: Any = UNSET
    model: type[BaseModel] = settings_class
    entry: type[BaseModel] | None = None
    for name in field.path:
        if entry is not None:
            value = value.get(name, UNSET) if isinstance(value, Mapping) else UNSET
            model, entry = entry, None
            continue
        info = model.model_fields[name]
        value = getattr(value, name) if isinstance(value, BaseModel) else _get_default(info)
        entry = _find_entry(info.annotation)
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

"""What the environment, `.env` and secret files say, and which of it nobody understands."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, TypeAlias

from dotenv import dotenv_values
from pydantic import BaseModel

from backstay.errors import did_you_mean
from backstay.settings._fields import EntryPath, SettingField, list_fields

__all__ = ["FilePaths", "UnknownVariable", "Variable", "Variables", "read_variables", "say_source"]

FilePaths: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None


@dataclass(frozen=True, slots=True)
class Variable:
    """What was found for a setting.

    Attributes:
        name: The variable or file that holds it.
        value: Its text, which may be a secret.
        source: Where it was found: `environment`, `.env` or `secrets file /run/secrets/shop_name`.
    """

    name: str
    value: str = field(repr=False)
    source: str


@dataclass(frozen=True, slots=True)
class UnknownVariable:
    """A variable with the service's prefix that sets nothing, most often a misspelt one.

    Attributes:
        name: The variable as it is written.
        source: Where it was found.
        suggestion: ` Did you mean 'SHOP_NAME'?`, or nothing.
    """

    name: str
    source: str
    suggestion: str

    def __str__(self) -> str:
        return (
            f"{self.name} (from {say_source(self.source)}) is not a setting of this service.{self.suggestion}"
        )


def say_source(source: str) -> str:
    """Return a source as it is written in a sentence."""
    return "the environment" if source == "environment" else source


@dataclass(slots=True)
class Variables:
    """All that was found: by the setting's variable, what is not understood, and what cannot be read.

    Attributes:
        found: By the setting's variable.
        unknown: What is not understood.
        problems: What cannot be read, in words.
        fields: The settings of the class, with the sections of tables that variables name.
    """

    found: dict[str, Variable] = field(default_factory=dict)
    unknown: list[UnknownVariable] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    fields: tuple[SettingField, ...] = ()


def read_variables(
    settings_class: type[BaseModel], *, env_file: FilePaths, secrets_dir: FilePaths
) -> Variables:
    """Return what is set for the class; the environment wins over `.env`, and that over secret files."""
    variables = Variables()
    reader = _Reader(settings_class, variables)
    for directory in _list_paths(secrets_dir):
        reader.read_directory(directory)
    for path in _list_paths(env_file):
        reader.read_env_file(path)
    reader.read_layer(os.environ.items(), source="environment")
    return variables


def _list_paths(paths: FilePaths) -> Iterator[Path]:
    if isinstance(paths, str | os.PathLike):
        yield Path(paths).expanduser()
    else:
        yield from (Path(path).expanduser() for path in paths or ())


class _Reader:
    """Sort what is found into the settings that it sets and the rest."""

    def __init__(self, settings_class: type[BaseModel], variables: Variables) -> None:
        self._settings_class = settings_class
        self._delimiter = str(settings_class.model_config.get("env_nested_delimiter") or "__")
        self._prefix = str(settings_class.model_config.get("env_prefix", "")).upper()
        self._ignored: tuple[str, ...] = getattr(settings_class, "ignored_variables", ())
        self._variables = variables
        self._entries: frozenset[EntryPath] = frozenset()
        self._learn_entries(())

    def _learn_entries(self, names: Iterable[str]) -> None:
        """Take note of the sections of tables that variables of these names belong to."""
        tables = [each for each in self._variables.fields if each.entry is not None]
        for name in names:
            for table in tables:
                self._entries |= _find_entry(table, name, delimiter=self._delimiter)
        self._variables.fields = list_fields(self._settings_class, self._entries)
        self._known = {variable for each in self._variables.fields for variable in each.variables}

    def read_directory(self, directory: Path) -> None:
        try:
            files = sorted(path for path in directory.iterdir() if path.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._variables.problems.append(f"{directory} cannot be read: {error.strerror}.")
            return
        self._learn_entries(path.name for path in files)
        for path in files:
            name = path.name.upper()
            if name in self._known:
                self._add_file(name, path, named_by=path.name)
            else:
                self._note_unknown(path.name, "", f"secrets file {path}")

    def read_env_file(self, path: Path) -> None:
        try:
            items = dotenv_values(path, encoding="utf-8").items()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            self._variables.problems.append(f"{path} cannot be read: {reason}.")
            return
        self.read_layer(((name, value or "") for name, value in items), source=str(path))

    def read_layer(self, items: Iterable[tuple[str, str]], *, source: str) -> None:
        layer = dict(items)
        self._learn_entries(name for name, value in layer.items() if value.strip())
        spelt = {name.upper(): name for name in layer if layer[name].strip()}
        for name, value in layer.items():
            upper = name.upper()
            target = upper.removesuffix("_FILE")
            if upper in self._known:
                if value.strip():  # an empty variable is one that is not set
                    self._variables.found[upper] = Variable(name, value, source)
            elif target not in self._known:
                self._note_unknown(name, value, source)
            elif value.strip() and target in spelt:
                self._variables.problems.append(
                    f"{spelt[target]} and {name} are both set; remove one of them."
                )
            elif value.strip():
                self._add_file(target, Path(value.strip()).expanduser(), named_by=name)

    def _add_file(self, variable: str, path: Path, *, named_by: str) -> None:
        try:
            value = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            # Without the path: it may be the secret itself, put into the wrong variable.
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            self._variables.problems.append(f"{named_by} names a file that cannot be read: {reason}.")
            return
        if value.strip():
            self._variables.found[variable] = Variable(named_by, value, f"secrets file {path}")

    def _note_unknown(self, name: str, value: str, source: str) -> None:
        upper = name.upper()
        if not self._prefix or not upper.startswith(self._prefix):
            return
        if any(fnmatchcase(upper, pattern.upper()) for pattern in self._ignored):
            return
        if _is_service_link(upper.removeprefix(self._prefix), value):
            return
        self._variables.unknown.append(UnknownVariable(name, source, did_you_mean(upper, self._known)))


def _find_entry(table: SettingField, name: str, *, delimiter: str) -> frozenset[EntryPath]:
    start, rest = f"{table.variable}{delimiter}", name.upper()
    entry, ending, setting = rest.removeprefix(start).partition(delimiter.upper())
    if not rest.startswith(start.upper()) or not (entry and ending and setting):
        return frozenset()
    return frozenset({(*table.path, entry.lower())})


def _is_service_link(rest: str, value: str) -> bool:
    # Kubernetes puts the addresses of a namespace's services into every container: one that is called like us
    # would otherwise stop us.
    if _SERVICE_LINK.fullmatch(rest):
        return True
    return rest.endswith("PORT") and re.match(r"(?:tcp|udp|sctp)://", value) is not None


_SERVICE_LINK: Final = re.compile(
    r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)

"""The files of data migrations: found and read without running them, loaded when they run, written new."""

from __future__ import annotations

import ast
import inspect
import re
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from string import Template
from types import ModuleType
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backstay.db.migrations._errors import MigrationError
from backstay.db.migrations.data._batches import Batch
from backstay.db.migrations.data._errors import BrokenDataMigrationError, UnknownDataMigrationError
from backstay.errors import did_you_mean

__all__ = ["DataMigration", "Migrate", "find_file", "find_line", "load_migrate", "read_files", "write_file"]

Migrate: TypeAlias = Callable[[Connection, Batch], int]
"""Changes the rows of one batch and returns how many it changed. It neither commits nor rolls back."""

_DATE = re.compile(r"^\d+_(?:\d+_)?")
_TEMPLATE = Path(__file__).with_name("data_migration.py.template")


@dataclass(frozen=True, slots=True)
class DataMigration:
    """One file of `migrations/data`.

    Attributes:
        name: The file's name without its date and its ending.
        after: The schema migration that must have run before; None when there is none.
        table: The table whose rows it walks through.
        message: The first line of its docstring.
    """

    name: str
    after: str | None
    table: str
    message: str
    path: Path


def read_files(directory: Path) -> tuple[DataMigration, ...]:
    """Return the data migrations of a directory by their dates; none when it does not exist.

    Raises:
        MigrationError: A file cannot be read, or two have the same name.
    """
    found: dict[str, DataMigration] = {}
    for path in sorted(directory.glob("[!_.]*.py")):
        migration = _read_file(path)
        if migration.name in found:
            raise MigrationError(
                f"{found[migration.name].path.name} and {path.name} are both the data migration "
                f"{migration.name}.",
                hint="Give one of them another name.",
            )
        found[migration.name] = migration
    return tuple(found.values())


def find_file(directory: Path, name: str) -> DataMigration:
    """Return the data migration of that name.

    Raises:
        UnknownDataMigrationError: There is none.
    """
    migrations = {migration.name: migration for migration in read_files(directory)}
    if name not in migrations:
        raise UnknownDataMigrationError(name, migrations)
    return migrations[name]


def _read_file(path: Path) -> DataMigration:
    try:
        module = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise BrokenDataMigrationError(
            path, error.lineno or 1, f"{type(error).__name__}: {error.msg}."
        ) from error
    said = _read_names(path, module, ("after", "table"))
    if not said.get("table"):
        raise BrokenDataMigrationError(
            path, 1, 'it does not say whose rows it changes, as in table = "users".'
        )
    return DataMigration(
        name=_DATE.sub("", path.stem),
        after=said.get("after"),
        table=str(said["table"]),
        message=(ast.get_docstring(module) or "").partition("\n")[0].removesuffix("."),
        path=path,
    )


def _read_names(path: Path, module: ast.Module, names: Collection[str]) -> dict[str, str | None]:
    said: dict[str, str | None] = {}
    for statement in module.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        if isinstance(target, ast.Name) and target.id in names:
            said[target.id] = _read_text(path, target.id, statement.value)
    return said


def _read_text(path: Path, name: str, node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str)):
        return node.value
    raise BrokenDataMigrationError(path, node.lineno, f"{name} is a text, written out.")


def load_migrate(path: Path) -> Migrate:
    """Run a file and return its function `migrate`.

    Raises:
        BrokenDataMigrationError: It raises, or has no such function.
    """
    module = _run_file(path)
    migrate = getattr(module, "migrate", None)
    if not callable(migrate) or inspect.iscoroutinefunction(migrate):
        raise BrokenDataMigrationError(
            path, 1, "it has no plain function `def migrate(connection: Connection, batch: Batch) -> int`."
        )
    return migrate  # type: ignore[no-any-return]  # what it returns is looked at when it has


def _run_file(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"backstay_data_migration_{path.stem}", path)
    if spec is None or spec.loader is None:  # pragma: no cover - every .py file has both
        raise BrokenDataMigrationError(path, 1, "it is no Python file.")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is the user's code
        raise BrokenDataMigrationError(
            path, find_line(error, path) or 1, f"{type(error).__name__}: {error}"
        ) from error
    return module


def find_line(error: BaseException, path: Path) -> int | None:
    """Return the line of a file where an error came through; None when it did not."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename) == path:
            return frame.lineno
    return None


def write_file(
    directory: Path, message: str, *, table: str, after: str | None, metadata: sa.MetaData
) -> Path:
    """Write a new data migration and return its path.

    Raises:
        MigrationError: The message has no letter, its name is taken, or no model has the table.
    """
    slug = "_".join(re.findall(r"[a-z0-9]+", message.lower()))[:60].strip("_")
    if not re.search("[a-z]", slug):
        raise MigrationError("A data migration needs a message, for its name.")
    if slug in {migration.name for migration in read_files(directory)}:
        raise MigrationError(
            f"There is a data migration {slug} already.", hint="Say what is new in this one."
        )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{datetime.now(UTC):%Y%m%d_%H%M}_{slug}.py"
    filled = _fill_template(message, table=table, after=after, key=_find_key(metadata, table))
    path.write_text(filled, encoding="utf-8")
    return path


def _find_key(metadata: sa.MetaData, table: str) -> Sequence[str]:
    known: Mapping[str, sa.Table] = metadata.tables
    if table not in known:
        raise MigrationError(
            f"No model has the table {table!r}.{did_you_mean(table, known)}",
            hint="Name it as the database does; was its model's module imported?",
        )
    key = [column.name for column in known[table].primary_key]
    if not key:
        raise MigrationError(
            f"The table {table!r} has no primary key, by which to walk through it.",
            hint="Give it one, or change its rows in a schema migration.",
        )
    return key


def _fill_template(message: str, *, table: str, after: str | None, key: Sequence[str]) -> str:
    schema, _, name = table.rpartition(".")
    variable = name if name.isidentifier() else "rows"
    columns = ", ".join(f'sa.column("{column}")' for column in key)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        docstring=" ".join(message.split()).replace("\\", "/").replace('"', "'").rstrip(".!?"),
        after="None" if after is None else f'"{after}"',
        table=table,
        variable=variable,
        made=f'sa.table("{name}", {columns}' + (f', schema="{schema}")' if schema else ")"),
        key=", ".join(
            f"{variable}.c.{column}" if column.isidentifier() else f'{variable}.c["{column}"]'
            for column in key
        ),
    )

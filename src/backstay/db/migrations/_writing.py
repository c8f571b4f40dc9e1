"""The next migration file: rendered from what differs, or empty, or joining two branches."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate import render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import MigrationScript
from alembic.runtime.migration import MigrationContext
from alembic.script import Script
from alembic.util import rev_id
from sqlalchemy.engine import Connection

from backstay.db.migrations._comparing import compare
from backstay.db.migrations._defaults import render_default
from backstay.db.migrations._environment import explained, load
from backstay.db.migrations._errors import MigrationError, NothingToMigrateError, UndeclaredTablesError
from backstay.db.migrations._history import History
from backstay.db.migrations._source import literal, roots, tidy
from backstay.db.types import JSON, Enum, PortableType, UTCDateTime, Uuid

__all__ = ["Body", "Place", "render_differences", "resolve", "write_file"]

# What a database reports where a model said a portable type; elsewhere the database's own word stays.
_REFLECTED: tuple[tuple[type[sa.types.TypeEngine[Any]], PortableType[Any]], ...] = (
    (sa.DateTime, UTCDateTime()),
    (sa.Uuid, Uuid()),
    (sa.JSON, JSON()),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a migration goes in the history.

    Attributes:
        head: What it follows, as Alembic names it: `head`, `base`, an id, `label@head`; several for a merge.
        splice: Whether it may follow one that others follow already, and so begin a branch.
        branch_label: A name for the branch that begins with it.
        depends_on: Revisions or labels of other branches that must be there before it.
    """

    head: str | tuple[str, ...] = "head"
    splice: bool = False
    branch_label: str | None = None
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Body:
    """The source of a migration's two functions, and the imports that they need."""

    upgrades: str = ""
    downgrades: str = ""
    imports: str = ""


def resolve(versions: Path, history: History, revisions: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ids of the migrations that these names stand for, each once.

    Raises:
        UnknownRevisionError: One of them is none.
    """
    scripts = load(versions)
    with explained(versions, history):
        found = [script for name in revisions for script in scripts.get_revisions(name)]
    # What stands before the first migration, `base`, is no script.
    return tuple(dict.fromkeys(script.revision for script in found if isinstance(script, Script)))


def write_file(versions: Path, history: History, *, message: str, place: Place, body: Body) -> Path:
    """Write a migration file and return its path."""
    if place.branch_label is not None:
        _refuse_label(place.branch_label, history)
    scripts = load(versions)
    with explained(versions, history):
        script = scripts.generate_revision(
            rev_id(),
            message,
            head=place.head,
            splice=place.splice,
            branch_labels=place.branch_label,
            depends_on=list(place.depends_on) or None,
            docstring=_docstring(message),
            literal=literal,
            upgrades=body.upgrades,
            downgrades=body.downgrades,
            imports=body.imports,
        )
    if script is None:  # pragma: no cover - only for a file name that is not a migration's
        raise MigrationError(f"The migration {message!r} was not written.")
    return Path(script.path)


def _refuse_label(label: str, history: History) -> None:
    # Alembic notices when the file is written already.
    if label in history.names:
        raise MigrationError(f"The branch label {label!r} is taken.", hint="Choose another.")
    if not _LABEL.fullmatch(label) or label in _RESERVED:
        raise MigrationError(
            f"{label!r} cannot be a branch label.", hint="Take one word of letters, digits, - and _."
        )


_LABEL = re.compile(r"[A-Za-z][\w-]*")
_RESERVED = ("base", "current", "head", "heads")


def _docstring(message: str) -> str:
    line = " ".join(message.split()).replace("\\", "/").replace('"', "'")
    return line.rstrip(".!?") + "."


def render_differences(
    connection: Connection,
    metadata: Sequence[sa.MetaData],
    *,
    drop: Collection[str],
    foreign: Collection[str],
) -> Body:
    """Return what makes the database like the models.

    Raises:
        NothingToMigrateError: They agree.
        UndeclaredTablesError: The database has tables that no model declares.
        UndroppableTableError: A table in `drop` must not be dropped.
    """
    found = compare(connection, metadata, drop=drop, foreign=foreign)
    if found.undeclared:
        raise UndeclaredTablesError(found.undeclared)
    if found.script.upgrade_ops is None or found.script.upgrade_ops.is_empty():
        raise NothingToMigrateError
    imports: set[str] = set()
    upgrades, downgrades = _render(found.script, found.context, imports)
    return Body(tidy(upgrades), tidy(downgrades), _import_lines(roots(upgrades) | roots(downgrades), imports))


def _render(script: MigrationScript, context: MigrationContext, imports: set[str]) -> tuple[str, str]:
    def render_item(kind: str, item: object, _: AutogenContext) -> str | Literal[False]:
        if kind == "server_default":
            return render_default(item)
        return _render_type(item, imports) if kind == "type" else False

    upgrades, downgrades = (
        # The first line comes without its indentation.
        "    "
        + render_python_code(
            operations,
            render_as_batch=True,
            render_item=render_item,
            migration_context=context,
        )
        for operations in (script.upgrade_ops, script.downgrade_ops)
        if operations is not None
    )
    return upgrades, downgrades


def _render_type(column_type: object, imports: set[str]) -> str | Literal[False]:
    if isinstance(column_type, Enum):
        return "sa.String()"
    portable = column_type if isinstance(column_type, PortableType) else _portable(column_type)
    module = type(portable or column_type).__module__
    if not module.startswith("sqlalchemy."):
        imports.add(module)
    return False if portable is None else f"{module}.{portable!r}"


def _portable(column_type: object) -> PortableType[Any] | None:
    # A type that was read from the database is spelled in capitals.
    if type(column_type).__name__.isupper() and type(column_type) is not sa.JSON:
        return next((ours for theirs, ours in _REFLECTED if isinstance(column_type, theirs)), None)
    return None


def _import_lines(names: Collection[str], modules: Collection[str]) -> str:
    plain = {f"import {module}" for module in modules}
    if "sa" in names:
        plain.add("import sqlalchemy as sa")
    lines = [*sorted(plain), "from alembic import op"]
    dialects = sorted({"postgresql", "sqlite"}.intersection(names))
    if dialects:
        lines.append(f"from sqlalchemy.dialects import {', '.join(dialects)}")
    return "\n".join(lines)

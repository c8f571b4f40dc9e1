"""Alembic's environment: what an `env.py` would say. Nothing else imports Alembic, which takes its time."""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.operations import Operations
from alembic.operations.ops import MigrationScript
from alembic.runtime.migration import MigrationContext, MigrationInfo, RevisionStep
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError, rev_id
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from backstay.db.migrations._defaults import PLUGIN, render_default
from backstay.db.migrations._errors import (
    BrokenMigrationError,
    MigrationError,
    MigrationFailedError,
    NothingToMigrateError,
    UnknownRevisionError,
)
from backstay.db.migrations._history import History
from backstay.db.migrations._locking import begin_alone, refuse_broken_keys
from backstay.db.migrations._source import literal, roots, tidy
from backstay.db.migrations.data._marker import forget_after
from backstay.db.migrations.data._steps import require_done
from backstay.db.types import JSON, Enum, PortableType, UTCDateTime, Uuid

__all__ = ["downgrade", "upgrade", "write_revision"]

_logger = logging.getLogger("backstay.db.migrations")

_FILE_NAME = "%(year)d%(month).2d%(day).2d_%(hour).2d%(minute).2d_%(slug)s_%(rev)s"
_RELATIVE = re.compile(r"[+-]\d+$")
# What a database reports where a model said a portable type; elsewhere the database's own word stays.
_REFLECTED: tuple[tuple[type[sa.types.TypeEngine[Any]], PortableType[Any]], ...] = (
    (sa.DateTime, UTCDateTime()),
    (sa.Uuid, Uuid()),
    (sa.JSON, JSON()),
)
_PLUGINS = ("alembic.autogenerate.*", "alembic.ext.checkconstraint_byname", PLUGIN)

Plan = Callable[[tuple[str, ...]], Sequence[RevisionStep]]


def upgrade(
    connection: Connection, versions: Path, history: History, *, target: str, wait: timedelta
) -> tuple[str, ...]:
    """Run migrations up to a target, each in its transaction; return the ids of those that ran."""
    scripts = _load(versions)

    def plan(heads: tuple[str, ...]) -> Sequence[RevisionStep]:
        nonlocal target
        steps = scripts._upgrade_revs(target, heads)  # type: ignore[arg-type]  # noqa: SLF001 - as its command
        if steps and _RELATIVE.search(target):
            target = str(steps[-1].info.up_revision_id)
        return steps

    with _explained(versions, history):
        return tuple(_run(connection, scripts, plan, wait))


def downgrade(
    connection: Connection, versions: Path, history: History, *, target: str, wait: timedelta
) -> tuple[str, ...]:
    """Take migrations back down to a target, each in its transaction; return the ids of those taken back."""
    scripts = _load(versions)
    planned: list[RevisionStep] | None = None

    def plan(heads: tuple[str, ...]) -> Sequence[RevisionStep]:
        nonlocal planned
        if planned is None:
            planned = scripts._downgrade_revs(target, heads)  # type: ignore[arg-type]  # noqa: SLF001 - as its command
        return [planned.pop(0)] if planned else []

    with _explained(versions, history):
        return tuple(_run(connection, scripts, plan, wait))


def _load(versions: Path) -> ScriptDirectory:
    scripts = ScriptDirectory(
        Path(__file__).parent,
        file_template=_FILE_NAME,
        version_locations=[versions],
        timezone="UTC",
        messaging_opts={"quiet": True},
    )
    try:
        scripts.get_heads()
    except Exception as error:  # importing a migration runs the user's code
        path, line = _place(error, versions)
        if path is None:
            raise
        raise BrokenMigrationError(path, line, f"{type(error).__name__}: {error}") from error
    return scripts


def _run(connection: Connection, scripts: ScriptDirectory, plan: Plan, wait: timedelta) -> Iterator[str]:
    # Planning anew for each step, inside of its transaction, sees what another process has done meanwhile.
    while ran := _run_one(connection, scripts, plan, wait):
        yield ran


def _run_one(connection: Connection, scripts: ScriptDirectory, plan: Plan, wait: timedelta) -> str | None:
    ran: list[str] = []

    def finish(*, step: MigrationInfo, **_: object) -> None:
        refuse_broken_keys(connection)
        ran.append(str(step.up_revision_id))
        if not step.is_upgrade:
            forget_after(connection, ran[-1])

    def first_step(heads: tuple[str, ...], _: MigrationContext) -> Sequence[RevisionStep]:
        steps = plan(heads)[:1]
        for step in steps:
            _require_data(connection, step)
        return steps

    context = _configure(connection, {"fn": first_step, "script": scripts, "on_version_apply": (finish,)})
    try:
        begin_alone(connection, wait=wait)
        with Operations.context(context):
            context.run_migrations()
    finally:
        connection.rollback()
    for revision in ran:
        _logger.info("Ran migration %s", revision)
    return ran[0] if ran else None


def _require_data(connection: Connection, step: RevisionStep) -> None:
    """Refuse an upgrade whose `requires_data` names a data migration that is not done."""
    script = getattr(step, "revision", None)
    if script is None or not step.is_upgrade:
        return
    names = getattr(script.module, "requires_data", ())
    for name in (names,) if isinstance(names, str) else names:
        directory = Path(script.path).parent.parent / "data"
        require_done(connection, directory, name=name, revision=script.revision)


def _configure(connection: Connection, options: dict[str, Any]) -> MigrationContext:
    is_sqlite = connection.dialect.name == "sqlite"
    base = {"transaction_per_migration": True, "transactional_ddl": True}
    context = MigrationContext.configure(connection, opts={**base, **options})
    if is_sqlite:
        # SQLite needs no autocommit; Alembic's switch to it would leave the driver beginning by itself.
        context.autocommit_block = nullcontext  # type: ignore[method-assign,assignment]  # does less
    return context


@contextmanager
def _explained(versions: Path, history: History) -> Iterator[None]:
    try:
        yield
    except MigrationError:
        raise
    except Exception as error:  # a migration is the user's code
        path, line = _place(error, versions)
        if path is not None:
            raise MigrationFailedError(path, line, _reason(error)) from error
        if isinstance(error, CommandError):
            raise _as_migration_error(error, history) from error
        raise


def _place(error: BaseException, versions: Path) -> tuple[Path | None, int]:
    folder = versions.resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve().parent == folder:
            return Path(frame.filename), frame.lineno or 1
    return None, 0


def _reason(error: Exception) -> str:
    if isinstance(error, DBAPIError):
        return str(error.driver_exception)
    return f"{type(error).__name__}: {error}"


def _as_migration_error(error: CommandError, history: History) -> MigrationError:
    if isinstance(error.__cause__, ResolutionError):
        unknown = error.__cause__.argument
        return UnknownRevisionError(str(unknown), history.ids)
    return MigrationError(f"{error}.")


def write_revision(
    connection: Connection | None, versions: Path, *, metadata: sa.MetaData, message: str
) -> Path:
    """Write a migration file: what differs between models and database, or an empty one without a connection.

    Raises:
        NothingToMigrateError: They agree.
    """
    scripts = _load(versions)
    parts = {"upgrades": "", "downgrades": "", "imports": ""}
    if connection is not None:
        parts = _differences(connection, metadata)
    script = scripts.generate_revision(
        rev_id(),
        message,
        docstring=_docstring(message),
        literal=literal,
        upgrades=parts["upgrades"],
        downgrades=parts["downgrades"],
        imports=parts["imports"],
    )
    if script is None:  # pragma: no cover - only for a file name that is not a migration's
        raise MigrationError(f"The migration {message!r} was not written.")
    return Path(script.path)


def _docstring(message: str) -> str:
    line = " ".join(message.split()).replace("\\", "/").replace('"', "'")
    return line.rstrip(".!?") + "."


def _differences(connection: Connection, metadata: sa.MetaData) -> dict[str, str]:
    imports: set[str] = set()
    context = _configure(connection, _comparison(metadata))
    with _warnings_logged():
        script = produce_migrations(context, metadata)
    if script.upgrade_ops is None or script.upgrade_ops.is_empty():
        raise NothingToMigrateError
    upgrades, downgrades = _render(script, context, imports)
    return {
        "upgrades": tidy(upgrades),
        "downgrades": tidy(downgrades),
        "imports": _import_lines(roots(upgrades) | roots(downgrades), imports),
    }


@contextmanager
def _warnings_logged() -> Iterator[None]:
    # What Alembic cannot compare, such as an index of expressions on SQLite, goes with the other log lines.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        _logger.warning("%s", warning.message)


def _comparison(metadata: sa.MetaData) -> dict[str, Any]:
    return {
        "target_metadata": metadata,
        "compare_type": True,
        "compare_server_default": True,
        "include_object": _is_ours,
        "autogenerate_plugins": _PLUGINS,
    }


def _is_ours(item: object, name: str | None, kind: str, reflected: bool, compare_to: object) -> bool:
    if kind == "table" and reflected and compare_to is None:
        if name is not None and name.startswith("backstay_"):
            return False
        _logger.warning("Left the table %s alone: no model declares it", name)
        return False
    return True


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

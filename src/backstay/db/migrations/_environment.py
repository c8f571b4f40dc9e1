"""Alembic's environment: what an `env.py` would say. Only the lint imports it too: Alembic takes its time."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, MigrationInfo, RevisionStep
from alembic.script import ScriptDirectory
from alembic.script.revision import MultipleHeads, ResolutionError
from alembic.util import CommandError
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from backstay.db._errors import sqlstate_of
from backstay.db.migrations._blockers import find_blockers, list_invalid_indexes
from backstay.db.migrations._errors import (
    BrokenMigrationError,
    MigrationBlockedError,
    MigrationError,
    MigrationFailedError,
    MigrationHalfDoneError,
    MultipleHeadsError,
    UnknownRevisionError,
)
from backstay.db.migrations._history import History
from backstay.db.migrations._limits import begin_limited, pause, waiting_concurrently
from backstay.db.migrations._locking import begin_alone, refuse_broken_keys
from backstay.db.migrations.data._marker import forget_after
from backstay.db.migrations.data._steps import require_done
from backstay.settings import MigrationSettings

__all__ = ["configure", "downgrade", "explained", "load", "upgrade"]

_logger = logging.getLogger("backstay.db.migrations")

_FILE_NAME = "%(year)d%(month).2d%(day).2d_%(hour).2d%(minute).2d_%(slug)s_%(rev)s"
_NOT_A_HEAD = re.compile(r"Revision (\S+) is not a head revision")
_TOO_MANY_STEPS = re.compile(r"Relative revision (\S+) didn't produce")
_WRONG_WAY = re.compile(r"Destination (\S+) is not a valid (upgrade|downgrade) target")
_STEPS_BACK = re.compile(r"-(\d+)")
_RELATIVE = re.compile(r"[+-]\d+$")

Plan = Callable[[tuple[str, ...]], Sequence[RevisionStep]]


def upgrade(
    connection: Connection, versions: Path, history: History, *, target: str, settings: MigrationSettings
) -> tuple[str, ...]:
    """Run migrations up to a target, each in its transaction; return the ids of those that ran."""
    scripts = load(versions)

    def plan(heads: tuple[str, ...]) -> Sequence[RevisionStep]:
        nonlocal target
        steps = scripts._upgrade_revs(target, heads)  # type: ignore[arg-type]  # noqa: SLF001 - as its command
        if steps and _RELATIVE.search(target):
            target = str(steps[-1].info.up_revision_id)
        return steps

    run = _Run(connection, scripts, settings)
    with explained(versions, history, run):
        return tuple(run.each(plan))


def downgrade(
    connection: Connection, versions: Path, history: History, *, target: str, settings: MigrationSettings
) -> tuple[str, ...]:
    """Take migrations back down to a target, each in its transaction; return the ids of those taken back."""
    scripts = load(versions)
    planned: list[RevisionStep] | None = None
    done: list[str] = []

    def plan(heads: tuple[str, ...]) -> Sequence[RevisionStep]:
        nonlocal planned
        if planned is None:
            planned = _plan_downgrade(scripts, history, target, heads)
        return planned[len(done) :]

    run = _Run(connection, scripts, settings)
    with explained(versions, history, run):
        for revision in run.each(plan):
            done.append(revision)  # noqa: PERF402 - the plan looks at it meanwhile
    return tuple(done)


def _plan_downgrade(
    scripts: ScriptDirectory, history: History, target: str, heads: tuple[str, ...]
) -> list[RevisionStep]:
    back = _STEPS_BACK.fullmatch(target)
    if back is None:
        return scripts._downgrade_revs(target, heads)  # type: ignore[arg-type]  # noqa: SLF001 - as its command
    # Alembic refuses to go back from a merge, and guesses where the database is at two migrations.
    steps = scripts._downgrade_revs("base", heads)  # type: ignore[arg-type]  # noqa: SLF001 - as its command
    return steps[: history.count_back(heads, int(back[1]))]


def load(versions: Path) -> ScriptDirectory:
    """Return Alembic's view of the migration files, imported."""
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


class _Run:
    """Several migrations, one after the other, and how far the present one has come."""

    def __init__(self, connection: Connection, scripts: ScriptDirectory, settings: MigrationSettings) -> None:
        self._connection = connection
        self._scripts = scripts
        self._settings = settings
        self._invalid_before: dict[str, str] = {}
        self.path = Path("alembic_version")
        self.is_partly_committed = False

    def each(self, plan: Plan) -> Iterator[str]:
        """Run what is planned and yield the id of each that ran.

        Planning anew for each step, inside of its transaction, sees what another process has done meanwhile.
        """
        while ran := self._try_one(plan):
            yield ran

    def _try_one(self, plan: Plan) -> str | None:
        attempt = 1
        while True:
            try:
                return self._run_one(plan)
            except DBAPIError as error:
                if not _gave_way(error) or self.is_partly_committed:
                    raise
                self._wait_after(error, attempt)
            attempt += 1

    def _wait_after(self, error: DBAPIError, attempt: int) -> None:
        blockers = find_blockers(self._connection, error.statement or "")
        if attempt == self._settings.attempts:
            raise MigrationBlockedError(self.path, attempts=attempt, blockers=blockers) from error
        _logger.warning(
            "Migration %s did not get its lock and was rolled back; attempt %d of %d follows%s",
            self.path.name,
            attempt + 1,
            self._settings.attempts,
            "".join(f"; {blocker}" for blocker in blockers),
        )
        pause(self._connection, attempt=attempt)

    def _run_one(self, plan: Plan) -> str | None:
        ran: list[str] = []
        self.is_partly_committed = False

        def first_step(heads: tuple[str, ...], _: MigrationContext) -> Sequence[RevisionStep]:
            steps = plan(heads)[:1]
            self._name(steps)
            for step in steps:
                _require_data(self._connection, step)
            return steps

        def finish(*, step: MigrationInfo, **_: object) -> None:
            refuse_broken_keys(self._connection)
            ran.append(str(step.up_revision_id))
            if not step.is_upgrade:
                forget_after(self._connection, ran[-1])

        options = {"fn": first_step, "script": self._scripts, "on_version_apply": (finish,)}
        context = configure(self._connection, options)
        self._watch_blocks(context)
        try:
            begin_alone(self._connection, wait=self._settings.lock_wait)
            begin_limited(self._connection, self._settings)
            with Operations.context(context):
                context.run_migrations()
        finally:
            self._connection.rollback()
        for revision in ran:
            _logger.info("Ran migration %s", revision)
        return ran[0] if ran else None

    def _name(self, steps: Sequence[RevisionStep]) -> None:
        for step in steps:
            script = self._scripts.get_revision(str(step.info.up_revision_id))
            self.path = Path(script.path) if script else self.path

    def _watch_blocks(self, context: MigrationContext) -> None:
        if self._connection.dialect.name != "postgresql":
            return
        autocommit = context.autocommit_block

        @contextmanager
        def block() -> Iterator[None]:
            if not self.is_partly_committed:
                self._invalid_before = list_invalid_indexes(self._connection)
            self.is_partly_committed = True
            with autocommit(), waiting_concurrently(self._connection):
                yield

        context.autocommit_block = block  # type: ignore[method-assign]  # the same, and noted

    def find_invalid_indexes(self) -> dict[str, str]:
        """Return the indexes that the present migration has left invalid, with their tables."""
        if self._connection.invalidated:
            return {}
        now = list_invalid_indexes(self._connection)
        self._connection.rollback()
        return {name: table for name, table in now.items() if name not in self._invalid_before}


def _gave_way(error: DBAPIError) -> bool:
    # A lock timeout, or a deadlock of which the server has chosen us as the victim.
    return sqlstate_of(error) in ("55P03", "40P01")


def _require_data(connection: Connection, step: RevisionStep) -> None:
    """Refuse an upgrade whose `requires_data` names a data migration that is not done."""
    script = getattr(step, "revision", None)
    if script is None or not step.is_upgrade:
        return
    names = getattr(script.module, "requires_data", ())
    for name in (names,) if isinstance(names, str) else names:
        directory = Path(script.path).parent.parent / "data"
        require_done(connection, directory, name=name, revision=script.revision)


def configure(connection: Connection, options: dict[str, Any]) -> MigrationContext:
    """Return Alembic's context for a connection."""
    base = {"transaction_per_migration": True, "transactional_ddl": True}
    context = MigrationContext.configure(connection, opts={**base, **options})
    if connection.dialect.name == "sqlite":
        # SQLite needs no autocommit; Alembic's switch to it would leave the driver beginning by itself.
        context.autocommit_block = nullcontext  # type: ignore[method-assign,assignment]  # does less
    return context


@contextmanager
def explained(versions: Path, history: History, run: _Run | None = None) -> Iterator[None]:
    """Turn what Alembic or a migration raises into an error of ours that says what to do."""
    try:
        yield
    except MigrationError:
        raise
    except Exception as error:  # a migration is the user's code
        path, line = _place(error, versions)
        if run is not None and run.is_partly_committed:
            left = run.find_invalid_indexes()
            raise MigrationHalfDoneError(run.path, line, _reason(error), invalid_indexes=left) from error
        if path is not None:
            raise _as_failure(error, path, line) from error
        if isinstance(error, CommandError):
            raise _as_migration_error(error, history) from error
        raise


def _place(error: BaseException, versions: Path) -> tuple[Path | None, int]:
    folder = versions.resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve().parent == folder:
            return Path(frame.filename), frame.lineno or 1
    return None, 0


def _as_failure(error: Exception, path: Path, line: int) -> MigrationFailedError:
    reason = _reason(error)
    if isinstance(error, DBAPIError) and "statement timeout" in reason:
        way_out = (
            "raise migrations.statement_timeout, or begin it with "
            'op.execute("SET LOCAL statement_timeout = 0"),'
        )
        return MigrationFailedError(path, line, reason, way_out=way_out)
    return MigrationFailedError(path, line, reason)


def _reason(error: Exception) -> str:
    if isinstance(error, DBAPIError):
        return str(error.driver_exception)
    return f"{type(error).__name__}: {error}"


def _as_migration_error(error: CommandError, history: History) -> MigrationError:
    cause = error.__cause__
    if found := _NOT_A_HEAD.search(str(error)):
        return MigrationError(
            f"The migration {found[1]!r} is not a head: others follow it.",
            hint="Add --splice to begin a branch there, or follow a head.",
        )
    if found := _TOO_MANY_STEPS.search(str(error)):
        return MigrationError(
            f"There are not as many migrations as {found[1]!r} would run.",
            hint="`backstay db history` lists them, `backstay db current` says where the database is.",
        )
    if found := _WRONG_WAY.search(str(error)):
        side = "ahead of" if found[2] == "upgrade" else "behind"
        return MigrationError(
            f"The target {found[1]!r} is not {side} where the database is.",
            hint="`backstay db history` lists the migrations, `backstay db current` says where it is.",
        )
    if isinstance(cause, MultipleHeads):
        return MultipleHeadsError(history.heads)
    if isinstance(cause, ResolutionError):
        return UnknownRevisionError(str(cause.argument), history.names)
    return MigrationError(
        f"{str(error).removesuffix('.')}.", hint="`backstay db history` lists the migrations."
    )

"""What the migration files say of themselves, read without running them and without Alembic."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from backstay.db.migrations._errors import (
    BrokenMigrationError,
    MigrationError,
    UnknownRevisionError,
    UnknownTargetError,
)
from backstay.db.migrations._revision import Revision

__all__ = ["History", "read_current", "read_history"]


@dataclass(frozen=True, slots=True)
class History:
    """All migrations of a directory, parents before children."""

    revisions: tuple[Revision, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Every revision's id."""
        return tuple(revision.id for revision in self.revisions)

    @property
    def names(self) -> tuple[str, ...]:
        """Every revision's id, and every branch label."""
        return self.ids + tuple(label for revision in self.revisions for label in revision.branch_labels)

    @property
    def heads(self) -> tuple[Revision, ...]:
        """The migrations that no other follows."""
        followed = {parent for revision in self.revisions for parent in revision.parents}
        return tuple(revision for revision in self.revisions if revision.id not in followed)

    def find(self, ids: Collection[str]) -> tuple[Revision, ...]:
        """Return the database's revisions, given by their ids.

        Raises:
            UnknownRevisionError: No file has one of them.
        """
        for unknown in sorted(set(ids).difference(self.ids)):
            raise UnknownRevisionError(unknown, self.ids, at_database=True)
        return tuple(revision for revision in self.revisions if revision.id in ids)

    def locate(self, target: str | Path) -> Revision:
        """Return one migration by its id, the beginning of its id, or its file.

        Raises:
            UnknownTargetError: No file has it, or the beginning fits several.
        """
        found = [revision for revision in self.revisions if _is_meant(revision, target)]
        exact = [revision for revision in found if revision.id == target] or found
        if len(exact) != 1:
            raise UnknownTargetError(target, meant=[revision.id for revision in found], known=self.ids)
        return exact[0]

    def pending(self, current: Collection[str]) -> tuple[Revision, ...]:
        """Return what a database at these revisions lacks, in the order of running.

        Raises:
            UnknownRevisionError: No file has one of them.
        """
        done = {revision.id for revision in self.find(current)}
        for revision in reversed(self.revisions):
            if revision.id in done:
                done.update(revision.parents, revision.depends_on)
        return tuple(revision for revision in self.revisions if revision.id not in done)

    def refuse_unknown_branch(self, target: str) -> None:
        """Check what stands before the @ of a target such as `label@-1`.

        Raises:
            UnknownRevisionError: It is neither a label nor a revision, or the target is empty.
        """
        if not target:
            raise UnknownRevisionError(target, self.names)
        branch, at, _ = target.rpartition("@")
        if at and not any(name.startswith(branch) for name in self.names):
            raise UnknownRevisionError(branch, self.names)

    def count_back(self, current: Collection[str], steps: int) -> int:
        """Return the number of steps, if it is clear which migration each of them takes back.

        Raises:
            MigrationError: There are fewer, or a step could take back one of several.
        """
        known, at = {revision.id: revision for revision in self.revisions}, set(current)
        for _ in range(steps):
            if not at:
                raise MigrationError(
                    f"The database is fewer than {steps} migrations above its beginning.",
                    hint="To take all of them back: backstay db downgrade base",
                )
            if len(at) > 1:
                raise MigrationError(
                    f"It is not clear which of {', '.join(sorted(at))} to take back first.",
                    hint="Name the migration to go back to, or the steps of one branch, as in label@-1.",
                )
            revision = known[at.pop()]
            at.update(revision.parents, revision.depends_on)
        return steps


def _is_meant(revision: Revision, target: str | Path) -> bool:
    if isinstance(target, Path):
        return revision.path == target.absolute()
    return bool(target) and revision.id.startswith(target)


def read_history(versions: Path) -> History:
    """Return the migrations of a directory; none when it does not exist.

    Raises:
        MigrationError: A file cannot be read, or the files do not fit together.
    """
    revisions: dict[str, Revision] = {}
    for path in sorted(versions.glob("[!_.]*.py")):
        revision = _read_file(path)
        if revision.id in revisions:
            raise MigrationError(
                f"{revisions[revision.id].path.name} and {path.name} have the same revision {revision.id!r}.",
                hint="Give one of them another.",
            )
        revisions[revision.id] = revision
    return History(tuple(_parents_first(_without_labels(revisions))))


def _read_file(path: Path) -> Revision:
    try:
        module = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise BrokenMigrationError(path, error.lineno or 1, f"{type(error).__name__}: {error.msg}") from error
    said = {name: node for statement in module.body for name, node in _assignments(statement)}
    ids = _texts(path, said.get("revision"))
    if len(ids) != 1:
        raise BrokenMigrationError(path, 1, 'it does not say which it is, as in revision = "1a2b3c".')
    message = (ast.get_docstring(module) or "").partition("\n")[0].removesuffix(".")
    parents, depends_on = _texts(path, said.get("down_revision")), _texts(path, said.get("depends_on"))
    labels = _texts(path, said.get("branch_labels"))
    return Revision(ids[0], parents, depends_on, message=message, path=path, branch_labels=labels)


def _assignments(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    for target in targets:
        if (
            isinstance(target, ast.Name)
            and isinstance(statement, (ast.Assign, ast.AnnAssign))
            and statement.value
        ):
            yield target.id, statement.value


def _texts(path: Path, node: ast.expr | None) -> tuple[str, ...]:
    if node is None:
        return ()
    try:
        value = ast.literal_eval(node)
    except ValueError as error:
        raise BrokenMigrationError(path, node.lineno, "a revision is written out, not computed.") from error
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _without_labels(revisions: dict[str, Revision]) -> dict[str, Revision]:
    """Return the revisions with the labels in `depends_on` replaced by the ids of those that bear them."""
    known = {one: one for one in revisions}
    for revision in revisions.values():
        for label in revision.branch_labels:
            if label in known:
                other = revisions[known[label]].path.name
                raise MigrationError(
                    f"{other} and {revision.path.name} both claim the name {label!r}.",
                    hint="Give one of their branches another label.",
                )
            known[label] = revision.id
    return {one: _resolve(revision, known) for one, revision in revisions.items()}


def _resolve(revision: Revision, known: dict[str, str]) -> Revision:
    for other in revision.depends_on:
        if other not in known:
            raise MigrationError(
                f"{revision.path.name} depends on {other!r}, which is neither a revision nor a branch label.",
                hint="Bring that file back, or correct depends_on.",
            )
    return replace(revision, depends_on=tuple(known[other] for other in revision.depends_on))


def _parents_first(revisions: dict[str, Revision]) -> Iterator[Revision]:
    waiting, done = dict(revisions), set[str]()
    while waiting:
        ready = [revision for revision in waiting.values() if done.issuperset(_before(revision, revisions))]
        if not ready:
            names = ", ".join(revision.path.name for revision in waiting.values())
            raise MigrationError(f"These migrations follow each other in a circle: {names}.")
        for revision in ready:
            yield waiting.pop(revision.id)
            done.add(revision.id)


def _before(revision: Revision, revisions: dict[str, Revision]) -> tuple[str, ...]:
    for parent in revision.parents:
        if parent not in revisions:
            raise MigrationError(
                f"{revision.path.name} follows the revision {parent!r}, which no file has.",
                hint="Bring that file back, or correct down_revision.",
            )
    return revision.parents + revision.depends_on


def read_current(connection: Connection) -> tuple[str, ...]:
    """Return the revisions that the database says it is at; none for a database never migrated."""
    if not inspect(connection).has_table("alembic_version"):
        return ()
    return tuple(connection.scalars(text("SELECT version_num FROM alembic_version ORDER BY version_num")))

"""Which other tables the database changes by itself, through foreign keys."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.exc import NoReferenceError

from backstay.db.model import Model
from backstay.transaction import EVERYTHING, table_tag

__all__ = ["tables_changed_with"]

_ACTIONS = {"CASCADE", "SET NULL", "SET DEFAULT"}


def tables_changed_with(table: sa.TableClause, *, update: str | None) -> frozenset[str]:
    """Return the tables, as in tags, of which rows may change with those of `table`.

    A table that no known metadata has is one whose children nobody knows: its DELETE may change everything.

    Args:
        table: What the statement changes.
        update: The SQL of an UPDATE, which names the columns that it sets; None for a DELETE.
    """
    name, changed = table_tag(table.name), set[str]()
    for metadata in _metadata_of(table):
        changed |= _links_of(metadata).changed_with(name, update)
    if update is None and not isinstance(table, sa.Table) and not _is_known(name):
        changed.add(EVERYTHING)
    return frozenset(changed)


def _metadata_of(table: sa.TableClause) -> Iterator[sa.MetaData]:
    yield Model.metadata
    if isinstance(table, sa.Table) and table.metadata is not Model.metadata:
        yield table.metadata


def _is_known(name: str) -> bool:
    return any(table_tag(table.name) == name for table in Model.metadata.tables.values())


@dataclass(frozen=True, slots=True)
class _Link:
    child: str
    parent_column: str | None
    deletes: bool
    updates_on_delete: bool
    updates_on_update: bool


class _Links:
    """The foreign keys of a metadata, by the table they point to."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self.table_count = len(metadata.tables)
        self._by_parent: defaultdict[str, list[_Link]] = defaultdict(list)
        for table in metadata.tables.values():
            for key in table.foreign_keys:
                self._add(table_tag(table.name), key)

    def _add(self, child: str, key: sa.ForeignKey) -> None:
        *_, parent, _ = key.target_fullname.split(".")
        on_delete, on_update = (str(action or "").upper() for action in (key.ondelete, key.onupdate))
        link = _Link(
            child=child,
            parent_column=_name_of_target(key),
            deletes=on_delete == "CASCADE",
            updates_on_delete=on_delete.startswith("SET "),
            updates_on_update=on_update in _ACTIONS,
        )
        self._by_parent[table_tag(parent)].append(link)

    def changed_with(self, table: str, update: str | None) -> set[str]:
        """Return what changes with a DELETE, or with the UPDATE statement given."""
        changed: set[tuple[str, bool]] = set()
        waiting = [(table, update is None)]
        while waiting:
            for found in self._children(*waiting.pop(), update if not changed else None):
                if found not in changed:
                    changed.add(found)
                    waiting.append(found)
        return {child for child, _ in changed}

    def _children(self, table: str, is_deleted: bool, update: str | None) -> Iterator[tuple[str, bool]]:
        for link in self._by_parent.get(table, ()):
            if is_deleted and (link.deletes or link.updates_on_delete):
                yield link.child, link.deletes
            elif not is_deleted and link.updates_on_update and _may_set(update, link.parent_column):
                yield link.child, False


def _name_of_target(key: sa.ForeignKey) -> str | None:
    try:
        return key.column.name
    except NoReferenceError:  # a table that is declared elsewhere, or not yet
        return None


def _may_set(update: str | None, column: str | None) -> bool:
    if update is None or column is None or "INSERT" in update:
        return True
    assignments = update.rpartition(" WHERE ")[0] or update
    return re.search(rf"\b{re.escape(column)}\b", assignments) is not None


_LINKS: WeakKeyDictionary[sa.MetaData, _Links] = WeakKeyDictionary()


def _links_of(metadata: sa.MetaData) -> _Links:
    links = _LINKS.get(metadata)
    if links is None or links.table_count != len(metadata.tables):
        links = _LINKS[metadata] = _Links(metadata)
    return links

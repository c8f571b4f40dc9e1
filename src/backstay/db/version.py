"""Rows that count their changes, so that two changes of one row cannot pass unnoticed."""

from __future__ import annotations

from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import InstanceState, Mapped, Mapper, ORMExecuteState, Session, mapped_column

from backstay.db.types import Integer

__all__ = ["VersionMixin", "count_bulk_updates", "version_of"]


class VersionMixin:
    """Adds `version`, which begins at 1 and rises with each change of the row; it feeds the ETag.

    An UPDATE or DELETE of a row that another transaction has changed since it was read finds no row, and the
    flush raises SQLAlchemy's `StaleDataError`: no change is lost, and the caller is answered with 409, or 412
    when the request had `If-Match`.

    - A change of what belongs to the row but lies in other tables is not seen; `row.version += 1` counts
      it.
    - `update(Order)` counts too, in sessions of a `Database`. Statements on the table itself, raw SQL,
      upserts and an `update()` of the own table of a subclass (joined inheritance) do not.
    - To a table that has rows already, a migration can add the column as it is: the database fills in 1.
    """

    version: Mapped[int] = mapped_column(Integer, default=1, server_default="1")


@event.listens_for(VersionMixin, "before_mapper_configured", propagate=True)
def _count_changes(mapper: Mapper[Any], cls: type[Any]) -> None:
    # Not in `__mapper_args__`: those of the model would replace them, and nothing would be checked any more.
    mapper.version_id_col = _version_column(mapper)


def _version_column(mapper: Mapper[Any]) -> sa.Column[Any]:
    return cast("sa.Column[Any]", mapper.base_mapper.local_table.c["version"])


def count_bulk_updates(session_class: type[Session]) -> None:
    """Let `update()` statements of a session class raise the version of each row that they change."""
    event.listen(session_class, "do_orm_execute", _count_bulk_update)


def _count_bulk_update(state: ORMExecuteState) -> None:
    mapper = state.bind_mapper
    if not state.is_update or mapper is None or not issubclass(mapper.class_, VersionMixin):
        return
    is_by_key = isinstance(state.parameters, list)  # its rows bring the version that they were read with
    if not is_by_key and mapper.local_table is _version_column(mapper).table:
        model = mapper.class_
        state.statement = state.statement.values({model.version: model.version + 1})  # type: ignore[attr-defined]  # an Update


def version_of(row: object) -> int | None:
    """Return the version of a row, or of a model made of one; None when it is not known without a query."""
    state = sa.inspect(row, raiseerr=False)
    version = state.dict.get("version") if isinstance(state, InstanceState) else getattr(row, "version", None)
    return version if isinstance(version, int) else None

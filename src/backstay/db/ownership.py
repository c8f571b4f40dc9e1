"""Rows that belong to somebody: found only together with their owner."""

from __future__ import annotations

import re
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, Mapper

from backstay.errors import UsageError, did_you_mean

__all__ = ["find_owned"]

Row = TypeVar("Row")


async def find_owned(
    session: AsyncSession, model: type[Row], key: Any, *, owner: str, subject: str | None
) -> Row | None:
    """Return the row with a key, if it is somebody's; None else.

    Args:
        session: Whose rows.
        model: Their class.
        key: The primary key; a tuple when it has several columns.
        owner: The attribute that holds the subject of the row's owner.
        subject: Whose it has to be; anybody's when None.

    Raises:
        UsageError: The class has no such attribute, or another number of key columns.
    """
    mapper = inspect(model)
    column = _find_owner(mapper, owner)
    statement = select(model).where(*_is_row(mapper, key))
    if subject is not None:
        value = _to_owner(column, subject)
        if value is None:
            return None
        statement = statement.where(column == value)
    return (await session.execute(statement)).unique().scalar_one_or_none()


def _is_row(mapper: Mapper[Any], key: Any) -> list[ColumnElement[bool]]:
    values = key if isinstance(key, tuple) else (key,)
    if len(values) != len(mapper.primary_key):
        raise UsageError(f"{mapper.class_.__name__} has a key of {len(mapper.primary_key)} columns.")
    return [column == value for column, value in zip(mapper.primary_key, values, strict=True)]


def _find_owner(mapper: Mapper[Any], owner: str) -> InstrumentedAttribute[Any]:
    if owner not in mapper.column_attrs:
        known = [attribute.key for attribute in mapper.column_attrs]
        raise UsageError(
            f"{mapper.class_.__name__} has no column {owner!r}; say which one names the owner: owner=..."
            f"{did_you_mean(owner, known)}"
        )
    attribute: InstrumentedAttribute[Any] = getattr(mapper.class_, owner)
    return attribute


def _to_owner(column: InstrumentedAttribute[Any], subject: str) -> object:
    """Return a subject as the column has it; None when it cannot be any of its values."""
    kind = getattr(column.type, "impl_instance", column.type).python_type
    if kind is int:
        return int(subject) if re.fullmatch(r"-?[0-9]{1,18}", subject, re.ASCII) else None
    if kind is UUID:
        try:
            return UUID(subject)
        except ValueError:
            return None
    return subject

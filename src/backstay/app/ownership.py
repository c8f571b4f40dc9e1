"""Rows that belong to the caller."""

from __future__ import annotations

from typing import Any, TypeVar

from backstay.db import AsyncSession
from backstay.db.ownership import find_owned
from backstay.errors import NotFoundError
from backstay.security import Principal

__all__ = ["get_owned"]

Row = TypeVar("Row")


async def get_owned(  # noqa: PLR0913  the first two are what is asked for, the others have names
    session: AsyncSession,
    model: type[Row],
    *,
    id: Any,  # noqa: A002  what everybody calls it
    principal: Principal,
    owner: str = "user_id",
    unless_scope: str | None = None,
) -> Row:
    """Return a row that belongs to the caller; somebody else's is not there, and cannot be told from none.

    Args:
        session: Whose rows.
        model: Their class.
        id: The primary key; a tuple when it has several columns.
        principal: Who calls.
        owner: The attribute that holds the subject of the row's owner.
        unless_scope: Callers with this scope get anybody's row.

    Raises:
        NotFoundError: There is none, or it is not the caller's.
        UsageError: The class has no such attribute, or another number of key columns.
    """
    sees_all = unless_scope is not None and principal.has_scopes(unless_scope)
    subject = None if sees_all else principal.subject
    row = await find_owned(session, model, id, owner=owner, subject=subject)
    if row is None:
        raise NotFoundError
    return row

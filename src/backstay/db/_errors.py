"""From what a database says to what a caller is told."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError

from backstay.db.types import ColumnValueError
from backstay.errors import (
    AppError,
    ConflictError,
    EditConflictError,
    InvalidInputError,
    RetryableError,
    UnavailableError,
)

__all__ = ["LOCK_NOT_AVAILABLE", "as_app_error", "is_certain", "is_repeatable", "sqlstate_of"]

LOCK_NOT_AVAILABLE = "55P03"
_REPEATABLE = {"40001", "40P01"}  # serialization_failure, deadlock_detected
_UNREACHABLE = (
    "08",
    "57P",
    "53",
    LOCK_NOT_AVAILABLE,
)  # connection exceptions, shutdowns, out of resources, lock timeout
_LOST_WHILE_COMMITTING = (
    "08",
    "57P",
    "40003",
)  # connection exceptions, shutdowns, statement_completion_unknown

_ANSWERS: tuple[tuple[type[Exception], type[AppError], str], ...] = (
    (
        StaleDataError,
        EditConflictError,
        "Another request changed the same data meanwhile; read it again, then repeat the change.",
    ),
    (ColumnValueError, InvalidInputError, "A value does not fit where it is stored."),
    (IntegrityError, ConflictError, "The change contradicts what is stored."),
    (PoolTimeoutError, UnavailableError, "All database connections are busy."),
)


def sqlstate_of(error: BaseException) -> str | None:
    """Return the five-character SQLSTATE of a database error; None when the server did not send one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(original, "sqlstate", None)
    return state if isinstance(state, str) else None


def is_repeatable(error: BaseException | None) -> bool:
    """Return whether the whole transaction may succeed when it runs again: 40001, 40P01, also as a cause."""
    seen: set[int] = set()  # drivers raise an error from itself
    while error is not None and id(error) not in seen:
        if sqlstate_of(error) in _REPEATABLE:
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


def is_certain(error: BaseException) -> bool:
    """Return whether an error of COMMIT says for sure that nothing was committed."""
    if not isinstance(error, DBAPIError):
        return False
    state = sqlstate_of(error)
    if state is not None:
        return not state.startswith(_LOST_WHILE_COMMITTING)
    return not error.connection_invalidated and not isinstance(error, InterfaceError)


def as_app_error(error: BaseException) -> AppError | None:
    """Return the answer that a database error deserves; None when it is the service's own fault.

    The detail never holds what the database said: it quotes values.
    """
    if is_repeatable(error):
        return RetryableError("Another request changed the same data; send the request again.")
    for kind, answer, detail in _ANSWERS:
        if isinstance(error, kind):
            return answer(detail)
    if _is_unreachable(error):
        return UnavailableError("The database cannot be reached.")
    return None


def _is_unreachable(error: BaseException) -> bool:
    state = sqlstate_of(error)
    if state is not None:
        return state.startswith(_UNREACHABLE)
    if not isinstance(error, DBAPIError):
        return False
    is_locked = isinstance(error, OperationalError) and "database is locked" in str(error.orig)
    return error.connection_invalidated or is_locked

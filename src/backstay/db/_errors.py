"""From what a database says to what a caller is told."""

from __future__ import annotations

import asyncpg
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError

from backstay.db._admission import NoPlaceError
from backstay.db.types import ColumnValueError
from backstay.deadline import seconds_left
from backstay.errors import (
    AppError,
    ConflictError,
    DeadlineExceededError,
    EditConflictError,
    InvalidInputError,
    RetryableError,
    StorageFullError,
    UnavailableError,
)

__all__ = [
    "LOCK_NOT_AVAILABLE",
    "as_app_error",
    "explain_refused_value",
    "is_certain",
    "is_lost",
    "is_refusal",
    "is_repeatable",
    "sqlstate_of",
]

LOCK_NOT_AVAILABLE = "55P03"
_QUERY_CANCELED = "57014"
_REPEATABLE = {"40001", "40P01"}  # serialization_failure, deadlock_detected
_UNREACHABLE = (
    "08",
    "57P",
    "53",
    LOCK_NOT_AVAILABLE,
    _QUERY_CANCELED,
)  # connection exceptions, shutdowns, out of resources, lock timeout, stopped by an administrator
_LOST = ("08", "57P")  # connection exceptions, shutdowns and starts
_LOST_WHILE_COMMITTING = (
    "08",
    "57P",
    "40003",
)  # connection exceptions, shutdowns, statement_completion_unknown

_DOES_NOT_FIT = "A value does not fit where it is stored."
_CONTRADICTS = "The change contradicts what is stored."
_FULL = "There is no room left to store anything."
_UNREACHED = "The database cannot be reached."
_BUSY = "All database connections are busy."
_TOO_LONG = "The database took too long."

# By SQLSTATE, and by what SQLite's library calls its codes. The first prefix that fits counts.
_BY_CODE: tuple[tuple[tuple[str, ...], type[AppError], str], ...] = (
    # not null, check, the option of a view, the size of an index entry
    (("22", "23502", "23514", "44", "54"), InvalidInputError, _DOES_NOT_FIT),
    (
        ("SQLITE_CONSTRAINT_NOTNULL", "SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_DATATYPE"),
        InvalidInputError,
        _DOES_NOT_FIT,
    ),
    (("SQLITE_MISMATCH", "SQLITE_TOOBIG"), InvalidInputError, _DOES_NOT_FIT),
    (("23", "SQLITE_CONSTRAINT"), ConflictError, _CONTRADICTS),
    (("53100", "SQLITE_FULL"), StorageFullError, _FULL),
    (_UNREACHABLE, UnavailableError, _UNREACHED),
)
_BY_CLASS: tuple[tuple[type[Exception], type[AppError], str], ...] = (
    (
        StaleDataError,
        EditConflictError,
        "Another request changed the same data meanwhile; read it again, then repeat the change.",
    ),
    (ColumnValueError, InvalidInputError, _DOES_NOT_FIT),
    (PoolTimeoutError, UnavailableError, _BUSY),
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


def is_lost(error: BaseException | None) -> bool:
    """Return whether the connection was lost or could not be made, also as a cause: it may be back soon."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        state = sqlstate_of(error)
        if state is not None and state.startswith(_LOST):
            return True
        if state is None and isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        if _is_closed(error):
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


def _is_closed(error: BaseException) -> bool:
    # What a new connection says that is lost before SQLAlchemy has prepared it, and translates nothing yet.
    return isinstance(error, asyncpg.InterfaceError) and "connection is closed" in str(error)


def is_refusal(error: BaseException) -> bool:
    """Return whether there was no connection to be had in time, as when there are too many requests."""
    return isinstance(error, PoolTimeoutError)


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
    if isinstance(error, NoPlaceError):
        return UnavailableError(_BUSY, retry_after_seconds=error.retry_after_seconds)
    for kind, answer, detail in _BY_CLASS:
        if isinstance(error, kind):
            return answer(detail)
    if isinstance(error, DBAPIError):
        return _by_code(error)
    return UnavailableError(_UNREACHED) if is_lost(error) else None


def _by_code(error: DBAPIError) -> AppError | None:
    if _has_wrong_type(error):
        return None
    code = sqlstate_of(error) or getattr(error.orig, "sqlite_errorname", None) or ""
    if _is_overdue(error, code):
        return DeadlineExceededError(_TOO_LONG)
    for prefixes, answer, detail in _BY_CODE:
        if code.startswith(prefixes):
            return answer(detail)
    if isinstance(error, IntegrityError):
        return ConflictError(_CONTRADICTS)
    return UnavailableError(_UNREACHED) if _is_unreachable(error) else None


def _has_wrong_type(error: DBAPIError) -> bool:
    """Return whether asyncpg refused a value for its type, such as text for a number: the code's own fault.

    It reports that as a data exception too, like a number that is too large.
    """
    seen: BaseException | None = error.orig
    while seen is not None and not isinstance(seen, TypeError):
        seen = seen.__cause__ if seen.__cause__ is not seen else None
    return seen is not None


def _is_overdue(error: DBAPIError, code: str) -> bool:
    """Return whether the database gave up because of our deadline, or of somebody else's limit."""
    if code == _QUERY_CANCELED and "timeout" in str(error.orig):
        return True  # the server's own words, which it may say in another language
    return seconds_left() == 0.0 and (code in {_QUERY_CANCELED, LOCK_NOT_AVAILABLE} or _is_locked(error))


def _is_unreachable(error: DBAPIError) -> bool:
    return sqlstate_of(error) is None and (error.connection_invalidated or _is_locked(error))


def _is_locked(error: DBAPIError) -> bool:
    return isinstance(error, OperationalError) and "database is locked" in str(error.orig)


def explain_refused_value(context: ExceptionContext) -> ColumnValueError | None:
    """Return what to raise in place of the plain Python error with which sqlite3 refuses a value."""
    is_plain = context.sqlalchemy_exception is None
    if is_plain and isinstance(context.original_exception, OverflowError | UnicodeEncodeError):
        return ColumnValueError("A number is wider than 64 bits, or a text has half of a surrogate pair.")
    return None

"""What a database that refuses us means, in words: which address, what to do."""

import asyncio

from backstay.app.explanation import variable_name
from backstay.errors import ConfigurationError
from backstay.redaction import redact_url
from backstay.settings import Settings

__all__ = ["explain_database_error", "outlive_drivers"]


def explain_database_error(error: BaseException, settings: Settings) -> ConfigurationError | None:
    """Return what to tell about a database that cannot be used; None for an error about something else."""
    if isinstance(error, ConfigurationError):
        return None
    url = settings.database.url.get_secret_value()
    address, variable = redact_url(url), variable_name(settings, "database.url")
    told = (
        _explain_sqlite(error, variable) if url.startswith("sqlite") else _explain_postgresql(error, variable)
    )
    return told and ConfigurationError(f"The database {address} {told[0]}", hint=told[1])


async def outlive_drivers() -> None:
    """Keep the event loop for a moment after a database could not be opened.

    The thread of aiosqlite still answers the order to stop; to a closed loop it answers with a traceback.
    """
    await asyncio.sleep(_DRIVER_SECONDS)


_DRIVER_SECONDS = 0.1

_POSTGRESQL = {
    "28": ("refuses this user or password.", "Check the user and the password in {variable}."),
    "3D000": (
        "does not exist on its server.",
        "Create it with `createdb`, or name another one in {variable}.",
    ),
    "42501": ("does not allow this to its user.", "Grant it, or use another user in {variable}."),
    "53": (
        "takes no more connections.",
        "Try again in a moment, or lower database.pool_size of the services.",
    ),
    "57P03": ("is starting or stopping.", "Try again in a moment."),
    "57P": ("went away.", "Try again when it is up."),
    "08": (
        "cannot be reached.",
        "Start it, correct {variable}, or use sqlite:///service.db, which needs no server.",
    ),
}
"""By the beginning of the SQLSTATE, the longer one first."""


def _explain_postgresql(error: BaseException, variable: str) -> tuple[str, str] | None:
    state = _find_state(error) or ""
    for beginning, (message, hint) in _POSTGRESQL.items():
        if state.startswith(beginning):
            return message, hint.format(variable=variable)
    return None


def _find_state(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of an error, of what it wraps, or of what it was raised from."""
    while error is not None:
        state = getattr(getattr(error, "orig", None) or error, "sqlstate", None)
        if isinstance(state, str):
            return state
        error = error.__cause__
    return None


_SQLITE = {
    "unable to open database file": (
        "cannot be opened.",
        "Create its folder and let this user write there, or name another file in {variable}.",
    ),
    "file is not a database": ("is not a SQLite file.", "Name another file in {variable}."),
    "readonly database": ("may not be written.", "Let this user write the file and its folder."),
    "database is locked": ("is locked by another process that writes.", "Stop that process, or try again."),
    "disk is full": ("cannot grow: the disk is full.", "Make room."),
}


def _explain_sqlite(error: BaseException, variable: str) -> tuple[str, str] | None:
    text = str(getattr(error, "orig", None) or error)
    for words, (message, hint) in _SQLITE.items():
        if words in text:
            return message, hint.format(variable=variable)
    return None

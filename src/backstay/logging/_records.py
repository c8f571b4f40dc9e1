"""Records of the standard library's loggers: the same keys, the same pipeline, the same stream."""

import logging
import re
from collections.abc import Callable

from backstay.logging._pipeline import Origin, pipeline
from backstay.redaction import REDACTED

_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {
    "asctime",
    "message",
    "taskName",
    "color_message",  # Uvicorn's second copy of the message, with escape sequences
}
# They bring handlers of their own, or get them from the tool that starts the process.
_TAKEN_OVER = ("uvicorn", "gunicorn", "sqlalchemy", "alembic", "httpx2", "httpx", "fastapi")
# The HTTP libraries write headers, cookies included, at DEBUG; Alembic tells of its plugins, and our own
# line says which migration ran. Whoever needs more can still set the level.
_TOO_TALKATIVE = {
    "httpcore2": logging.INFO,
    "httpcore": logging.INFO,
    "hpack": logging.INFO,
    "alembic": logging.WARNING,
    # On DEBUG it writes each statement with its values: what was typed as a login, the hash of a password.
    "aiosqlite": logging.INFO,
}
_QUERY = re.compile(r"\?[^\s\"'<>]+")


def take_over_records() -> None:
    """Send every record to the pipeline, once, whatever handlers were there before."""
    for name in [*logging.root.manager.loggerDict]:
        if name.split(".")[0] in _TAKEN_OVER:
            _hand_to_root(logging.getLogger(name))
    # SQLAlchemy gives an engine with `echo=True` a handler unless its logger has one.
    logging.getLogger("sqlalchemy.engine.Engine").addHandler(logging.NullHandler())
    for name, level in _TOO_TALKATIVE.items():
        _quieten(logging.getLogger(name), level)
    _silence(logging.getLogger("uvicorn.access"))
    _install_handler(logging.getLogger())
    # Anew each time: whoever replaced `warnings.showwarning` meanwhile took it away.
    logging.captureWarnings(capture=False)
    logging.captureWarnings(capture=True)


class RecordHandler(logging.Handler):
    """Sends records through the pipeline.

    It takes no lock, so that a signal handler may log, and uses no formatter: structlog's returns text that
    has to be encoded again, and raises into the caller when a processor drops the event.
    """

    def createLock(self) -> None:  # noqa: N802  the standard library's name
        """Have no lock: a line is one write."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record on its way."""
        values = {key: value for key, value in record.__dict__.items() if key not in _ATTRIBUTES}
        if record.exc_info:
            values["exc_info"] = record.exc_info
        if record.stack_info:
            values["stack_info"] = record.stack_info
        event, args = _read_event(record)
        if args:
            values["positional_args"] = args
        moment_ns = int(record.created * 1e9)
        pipeline.emit(Origin(record.name), record.levelname.lower(), event, values, moment_ns=moment_ns)


def _hand_to_root(logger: logging.Logger) -> None:
    logger.handlers.clear()
    logger.propagate = True


def _quieten(logger: logging.Logger, level: int) -> None:
    if logger.level == logging.NOTSET:
        logger.setLevel(level)


def _silence(logger: logging.Logger) -> None:
    # The access line is ours. Uvicorn does not even build its own when there is no handler.
    logger.handlers.clear()
    logger.propagate = False
    logger.disabled = True


def _install_handler(root: logging.Logger) -> None:
    for handler in [*root.handlers]:
        # Exactly this class is what basicConfig leaves; its subclasses belong to somebody, such as pytest.
        if isinstance(handler, RecordHandler) or type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    root.addHandler(RecordHandler())
    root.setLevel(pipeline.level)


def _read_event(record: logging.LogRecord) -> tuple[str, object]:
    """Return the message, and its arguments if they do not fit it."""
    read = _READERS.get(record.name.split(".")[0], logging.LogRecord.getMessage)
    try:
        return read(record).rstrip(), None
    except Exception:  # noqa: BLE001  a wrong placeholder, or an argument that cannot be shown
        return str(record.msg), record.args


def _read_statement(record: logging.LogRecord) -> str:
    """Return SQL on one line, without parameters and rows, which SQLAlchemy gives to a closing `%r`."""
    if isinstance(record.args, tuple) and record.args and str(record.msg).endswith("%r"):
        return str(record.msg).removesuffix("%r") % record.args[:-1] + REDACTED
    return " ".join(record.getMessage().split())


def _read_request(record: logging.LogRecord) -> str:
    """Return the line of an HTTP client without the query, whose values may be anything."""
    return _QUERY.sub(f"?{REDACTED}", record.getMessage())


def _read_warning(record: logging.LogRecord) -> str:
    """Return a Python warning without the source line under it."""
    return record.getMessage().rsplit("\n  ", 1)[0]


_READERS: dict[str, Callable[[logging.LogRecord], str]] = {
    "sqlalchemy": _read_statement,
    "httpx": _read_request,
    "httpx2": _read_request,
    "httpcore": _read_request,
    "httpcore2": _read_request,
    "py": _read_warning,
}

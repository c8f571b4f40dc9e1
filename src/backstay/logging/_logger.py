"""The logger that code of a service holds."""

import logging
import sys
from collections.abc import Mapping
from typing import Protocol, Self

from structlog import BoundLoggerBase

from backstay.logging._pipeline import Origin, pipeline


class Logger(Protocol):
    """Says what happened, with values by name: `logger.info("order accepted", order_id=7)`.

    `event` is a fixed phrase; what varies goes into values, where it can be searched for and redacted. For
    code that comes from the standard library `%` arguments work, too. A call below the level costs a tenth of
    a microsecond and its values are not looked at.
    """

    def debug(self, event: str, /, *args: object, **values: object) -> None:
        """Log what only a developer wants to know."""

    def info(self, event: str, /, *args: object, **values: object) -> None:
        """Log what happened as it should."""

    def warning(self, event: str, /, *args: object, **values: object) -> None:
        """Log what worked and should be looked at."""

    def error(self, event: str, /, *args: object, **values: object) -> None:
        """Log what failed; `exc_info=True` adds the current exception."""

    def critical(self, event: str, /, *args: object, **values: object) -> None:
        """Log what somebody must be woken for."""

    def exception(self, event: str, /, *args: object, **values: object) -> None:
        """Log what failed, with the current exception: its type, message, frames and causes."""

    def log(self, level: int, event: str, /, *args: object, **values: object) -> None:
        """Log at a level of the standard library, such as `logging.INFO`."""

    def bind(self, **values: object) -> Self:
        """Return a logger that adds these values to each of its lines."""

    def unbind(self, *keys: str) -> Self:
        """Return a logger without these values.

        Raises:
            KeyError: One of them is not bound.
        """

    def is_enabled_for(self, level: int) -> bool:
        """Return whether a line of this level would be written."""


def get_logger(name: str | None = None) -> Logger:
    """Return the logger of a module; may be called before `configure_logging`, which it then follows.

    Args:
        name: What the lines say under `logger`; the name of the calling module when omitted.
    """
    return BoundLogger(Origin(name or _name_caller()), (), {})


class BoundLogger(BoundLoggerBase):
    """The implementation, which structlog's own `get_logger` gives, too.

    Its methods ask for the level themselves: structlog's filtering classes fix it when the logger is made,
    and structlog's lazy proxy, which does not, costs more than the whole of a suppressed call may.
    """

    _logger: Origin

    def debug(self, event: str, /, *args: object, **values: object) -> None:
        if pipeline.level <= logging.DEBUG:
            self._emit("debug", event, args, values)

    def info(self, event: str, /, *args: object, **values: object) -> None:
        if pipeline.level <= logging.INFO:
            self._emit("info", event, args, values)

    def warning(self, event: str, /, *args: object, **values: object) -> None:
        if pipeline.level <= logging.WARNING:
            self._emit("warning", event, args, values)

    def error(self, event: str, /, *args: object, **values: object) -> None:
        if pipeline.level <= logging.ERROR:
            self._emit("error", event, args, values)

    def critical(self, event: str, /, *args: object, **values: object) -> None:
        # No level that the settings know suppresses it.
        self._emit("critical", event, args, values)

    def exception(self, event: str, /, *args: object, **values: object) -> None:
        if pipeline.level <= logging.ERROR:
            self._emit("error", event, args, {"exc_info": True, **values})

    def log(self, level: int, event: str, /, *args: object, **values: object) -> None:
        if pipeline.level <= level:
            self._emit(logging.getLevelName(level).lower(), event, args, values)

    def is_enabled_for(self, level: int) -> bool:
        return pipeline.level <= level

    def _emit(self, level: str, event: str, args: tuple[object, ...], values: Mapping[str, object]) -> None:
        if self._context:
            values = {**self._context, **values}
        if args:
            event, values = _interpolate(event, args, values)
        pipeline.emit(self._logger, level, event, values)


def _interpolate(
    event: str, args: tuple[object, ...], values: Mapping[str, object]
) -> tuple[str, Mapping[str, object]]:
    """Return the event with its `%` arguments; those that do not fit are kept as a value."""
    try:
        return event % (args[0] if len(args) == 1 and isinstance(args[0], Mapping) else args), values
    except Exception:  # noqa: BLE001  a wrong placeholder, or an argument that cannot be shown
        return event, {**values, "positional_args": args}


def _name_caller() -> str:
    name: object = sys._getframe(2).f_globals.get("__name__")  # noqa: SLF001  inspect reads source files for it
    return name if isinstance(name, str) else "root"

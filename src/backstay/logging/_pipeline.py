"""The way of an event: stamped, the user's processors, scrubbed, rendered, written.

The configuration of logs belongs to the process, like the standard library's. It sits in one object that
`configure_logging` fills, so that loggers made earlier follow.
"""

import logging
import os
from collections.abc import Callable, Generator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from time import gmtime, strftime, time_ns
from traceback import format_stack
from typing import Any, cast

from structlog import DropEvent
from structlog.typing import EventDict, Processor

from backstay import json
from backstay.logging._console import ConsoleRenderer, shows_colors
from backstay.logging._context import current_context
from backstay.logging._output import Output, Stream, count_dropped_event
from backstay.logging._scrub import Scrubber
from backstay.logging._tracebacks import describe_exception, find_exception, read_message
from backstay.redaction import Redactor
from backstay.settings import LoggingSettings

__all__ = ["DropEvent", "EventDict", "Processor", "captured_logs"]

Renderer = Callable[[Mapping[str, object]], bytes]

_RESERVED_KEYS = frozenset({"timestamp", "level", "logger", "event", "exception", "stack"})


@contextmanager
def captured_logs() -> Generator[list[dict[str, object]]]:
    """Collect the events that are logged inside the block, as they would be written: processed and redacted.

    For tests. The events are still written. Those of the standard library's loggers are among them once
    `configure_logging` was called; what the level suppresses is not.
    """
    events: list[dict[str, object]] = []
    pipeline.collectors = (*pipeline.collectors, events)
    try:
        yield events
    finally:
        pipeline.collectors = tuple(other for other in pipeline.collectors if other is not events)


class Origin:
    """Who logs; what processors get as their first argument."""

    __slots__ = ("name",)

    def __init__(self, name: str = "root") -> None:
        self.name = name


class Pipeline:
    """What happens to an event. There is one per process.

    Attributes:
        level: The number below which events are suppressed.
        processors: The steps; the same list is given to structlog, so that its own testing tools work.
        collectors: Where tests want a copy of each event.
    """

    def __init__(self) -> None:
        self.level = logging.INFO
        self.processors: list[Processor] = []
        self.collectors: tuple[list[dict[str, object]], ...] = ()
        self._output: Output
        self._scrubber: Scrubber
        self._render: Renderer

    def assemble(
        self,
        settings: LoggingSettings,
        *,
        production: bool = False,
        stream: Stream | None = None,
        processors: Sequence[Processor] = (),
    ) -> None:
        """Replace every part by what these settings say."""
        self.level = logging.getLevelNamesMapping()[settings.level]
        self._output = Output(stream)
        self._scrubber = Scrubber(Redactor(settings.redact_keys))
        self._render = _choose_renderer(settings, self._output, production=production)
        self.processors[:] = [*map(_guard, processors), self._seal, self._render_event]

    def emit(
        self,
        origin: Origin,
        level: str,
        event: object,
        values: Mapping[str, object],
        *,
        moment_ns: int | None = None,
    ) -> None:
        """Send one event on its way. Never raises: what goes wrong is told in the line, or counted.

        Args:
            origin: Who logs.
            level: The name of the level, in lower case.
            event: What happened; made text if it is not.
            values: Further fields; `exc_info` becomes `exception`.
            moment_ns: When it happened, in nanoseconds since 1970; now when omitted.
        """
        try:
            if not self.processors:
                self.assemble(LoggingSettings())
            fields = _stamp(origin, level, event, moment_ns)
            _merge(fields, current_context())
            _merge(fields, values)
            self._output.write(self._process(origin, level, fields))
        except DropEvent:
            return
        except Exception as error:  # noqa: BLE001  the caller's work must not fail for its log line
            self._tell_failure(origin, level, event, error)

    def _process(self, origin: Origin, level: str, fields: EventDict) -> bytes:
        result: Any = fields
        for processor in self.processors:
            result = processor(origin, level, result)
        return cast("bytes", result)

    def _tell_failure(self, origin: Origin, level: str, event: object, error: Exception) -> None:
        """Write what is certain: a key or a renderer failed, and the event must not be lost."""
        try:
            text = event if isinstance(event, str) else f"<{type(event).__name__}>"
            fields = _stamp(origin, level, text, None)
            fields["logging_error"] = f"{type(error).__name__}: {read_message(error)}"
            self._output.write(_render_json(self._scrubber.clean_event(fields)))
        except Exception:  # noqa: BLE001  # pragma: no cover  # such as no stack left
            count_dropped_event()

    def _seal(self, _origin: object, _level: str, fields: EventDict) -> EventDict:
        exc_info, stack_info = fields.pop("exc_info", None), fields.pop("stack_info", None)
        cleaned = self._scrubber.clean_event(fields)
        if type(cleaned.get("event", "")) is not str:
            cleaned["event"] = json.dumps(cleaned["event"]).decode()
        if stack_info:
            cleaned["stack"] = self._scrubber.clean_value(_read_stack(stack_info))
        error = find_exception(exc_info) if exc_info else None
        if error is not None:
            cleaned["exception"] = describe_exception(error, self._scrubber.clean_text)
        for collector in self.collectors:
            collector.append(cleaned)
        return cleaned

    def _render_event(self, _origin: object, _level: str, fields: EventDict) -> bytes:
        return self._render(fields)


def _choose_renderer(settings: LoggingSettings, output: Output, *, production: bool) -> Renderer:
    is_watched = output.is_terminal
    if settings.format == "json" or (settings.format == "auto" and (production or not is_watched)):
        return _render_json
    return ConsoleRenderer(colors=is_watched and shows_colors(os.environ), encoding=output.encoding)


def _render_json(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields) + b"\n"


def _guard(processor: Processor) -> Processor:
    """Keep an event that a user's processor fails on."""

    def call(origin: object, level: str, fields: EventDict) -> EventDict:
        try:
            result = processor(origin, level, fields)
        except DropEvent:
            raise
        except Exception as error:  # noqa: BLE001  somebody else's code, in the middle of a logging call
            fields["processor_error"] = (
                f"{_name_callable(processor)}: {type(error).__name__}: {read_message(error)}"
            )
            return fields
        if isinstance(result, MutableMapping):
            return result
        fields["processor_error"] = (
            f"{_name_callable(processor)} returned {type(result).__name__}, not the event"
        )
        return fields

    return call


def _name_callable(processor: Processor) -> str:
    return getattr(processor, "__qualname__", None) or type(processor).__qualname__


def _stamp(origin: Origin, level: str, event: object, moment_ns: int | None) -> EventDict:
    moment = _format_moment(time_ns() if moment_ns is None else moment_ns)
    return {"timestamp": moment, "level": level, "logger": origin.name, "event": event}


def _merge(fields: EventDict, values: Mapping[str, object]) -> None:
    """Add values; one that would replace a key that every line has gets an underscore behind its name."""
    if _RESERVED_KEYS.isdisjoint(values):
        fields.update(values)
        return
    fields.update({f"{key}_" if key in _RESERVED_KEYS else key: value for key, value in values.items()})


def _read_stack(stack_info: object) -> list[str]:
    text = stack_info if isinstance(stack_info, str) else "".join(format_stack())
    return [line.strip() for line in text.splitlines() if line.strip()]


_second: tuple[int, str] = (-1, "")


def _format_moment(moment_ns: int) -> str:
    """Return the moment in UTC as ISO 8601 with microseconds; the text of the running second is kept."""
    global _second  # noqa: PLW0603  replaced as a whole, so that threads never see half of it
    second, rest_ns = divmod(moment_ns, 1_000_000_000)
    known = _second
    if known[0] != second:
        known = _second = (second, strftime("%Y-%m-%dT%H:%M:%S", gmtime(second)))
    return f"{known[1]}.{rest_ns // 1000:06d}Z"


pipeline = Pipeline()

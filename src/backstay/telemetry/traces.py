"""Spans of requests, statements and commits, sent by OTLP; and the ids that join log lines to them.

FastAPI makes the span of a request. We bring what it needs to go anywhere, the spans under it, and the mask
over what must not leave. Only `opentelemetry-api`, which FastAPI needs itself, is imported with this module;
the SDK and the exporter are the extra `telemetry`, and are imported by `open_traces`.
"""

# ruff: noqa: PLC0415  for that reason

from __future__ import annotations

import os
from collections.abc import MutableMapping
from datetime import timedelta
from threading import Thread
from time import time_ns
from typing import TYPE_CHECKING, Any, ClassVar

from opentelemetry import trace
from opentelemetry.trace import ProxyTracerProvider, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backstay.errors import ConfigurationError
from backstay.events import Event, QueryExecuted, QueryFailed, TransactionCommitted, TransactionRolledBack
from backstay.redaction import Redactor
from backstay.telemetry._literals import operation_of, strip_literals

if TYPE_CHECKING:
    from backstay.telemetry._exporting import Outlet

__all__ = [
    "DatabaseSpans",
    "Traces",
    "add_span_ids",
    "current_span_ids",
    "mask_request_span",
    "open_traces",
    "trace_headers",
]


class Traces:
    """Where the spans of this process go while the service runs."""

    def __init__(self, outlet: Outlet | None = None) -> None:
        self._outlet = outlet

    def close(self, *, timeout: timedelta) -> None:
        """Send what is left, for as long as `timeout` allows; blocks meanwhile.

        A provider of spans that the service set up itself is left alone.
        """
        if self._outlet is not None:
            # Its own limits add up to over half a minute when nobody answers: the stop waits for no longer
            # than it may.
            closing = Thread(target=self._outlet.close, name="backstay.traces", daemon=True)
            closing.start()
            closing.join(timeout.total_seconds())


def open_traces(service: str) -> Traces:
    """Let spans leave by OTLP over HTTP, as the OTEL_* variables say, from now on and for the whole process.

    A service that has set a global `TracerProvider` keeps it, with its exporters.

    Args:
        service: The name under which spans appear, unless the variables give another.

    Raises:
        ConfigurationError: The extra `telemetry` is not installed, or a variable asks for something else.
    """
    if not _is_free(trace.get_tracer_provider()):
        return Traces()
    exports = _wants_export()
    try:
        from backstay.telemetry import _exporting
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Traces need {error.name}, which is not installed.", hint="pip install 'backstay[telemetry]'"
        ) from error
    return Traces(_exporting.open_outlet(service, exports=exports))


def _is_free(provider: trace.TracerProvider) -> bool:
    """Return whether nobody but us has set the provider."""
    return isinstance(provider, ProxyTracerProvider) or type(provider).__module__.startswith("backstay.")


def _wants_export() -> bool:
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if exporter not in {"otlp", "none"}:
        raise ConfigurationError(
            f"OTEL_TRACES_EXPORTER is {exporter!r}; spans go out by otlp, or not at all with none.",
            hint="For another exporter set a TracerProvider of your own before the app starts: it is used.",
        )
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = os.environ.get(variable, "").strip() or "http/protobuf"
        if protocol != "http/protobuf":
            raise ConfigurationError(
                f"{variable} is {protocol!r}; spans are sent as http/protobuf.",
                hint="Collectors take that at port 4318: set it to http/protobuf, or remove it.",
            )
    return exporter == "otlp"


def current_span_ids() -> tuple[str, str] | None:
    """Return the trace id and span id of the running code, in hexadecimal; None outside of a trace."""
    context = trace.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None


def trace_headers() -> dict[str, str]:
    """Return the headers by which another service joins the trace of the running code; none outside of one.

    W3C's Trace Context only: baggage came from a caller, and is nobody else's.
    """
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers


def mask_request_span(redactor: Redactor, *, path: str, query: str) -> None:
    """Take what must not be shown out of the span of the current request, which holds path and query."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    if (shown_path := redactor.redact_text(path)) != path:
        span.set_attribute("url.path", shown_path)
    if query:
        span.set_attribute("url.query", redactor.redact_text(query))


class DatabaseSpans:
    """Make a span for each statement and each commit, under the span in which they ran.

    Args:
        system: What the database is to OpenTelemetry: `postgresql` or `sqlite`.
    """

    kinds: ClassVar[tuple[type[Event], ...]] = (
        QueryExecuted,
        QueryFailed,
        TransactionCommitted,
        TransactionRolledBack,
    )

    def __init__(self, system: str) -> None:
        self._system = system
        self._tracer = trace.get_tracer("backstay")

    def hear(self, event: Event) -> None:
        """Make the span of what happened; a subscriber of events."""
        if not _is_sampled():
            return
        match event:
            case QueryExecuted():
                self._record_statement(event.statement, event.seconds)
            case QueryFailed():
                self._record_statement(event.statement, event.seconds, error=event.error)
            case TransactionCommitted():
                self._record("COMMIT", event.seconds)
            case TransactionRolledBack(seconds=seconds) if seconds:
                self._record(
                    "COMMIT", seconds, error="rolled_back" if event.is_certain else "outcome_unknown"
                )

    def _record_statement(self, statement: str, seconds: float, *, error: str | None = None) -> None:
        text = strip_literals(statement)
        self._record(operation_of(text), seconds, error=error, attributes={"db.query.text": text})

    def _record(
        self,
        operation: str,
        seconds: float,
        *,
        error: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> None:
        ended = time_ns()
        span = self._tracer.start_span(
            operation,
            kind=SpanKind.CLIENT,
            start_time=ended - int(seconds * 1e9),
            attributes={
                "db.system.name": self._system,
                "db.operation.name": operation,
                **(attributes or {}),
            },
        )
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end(ended)


def _is_sampled() -> bool:
    # Not "is recording": the span of a request ends with the answer, and background tasks run after it.
    context = trace.get_current_span().get_span_context()
    return context.is_valid and bool(context.trace_flags & TraceFlags.SAMPLED)


def add_span_ids(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the ids of the current span into a log event, whoever opened it."""
    ids = current_span_ids()
    if ids is not None:
        event.setdefault("trace_id", ids[0])
        event.setdefault("span_id", ids[1])
    return event

"""The OpenTelemetry SDK: imported only where traces are on."""

from __future__ import annotations

import os
from threading import Lock

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

__all__ = ["Outlet", "open_outlet"]

_opening = Lock()


def open_outlet(service: str, *, exports: bool) -> Outlet:
    """Set the process' provider of spans, or take the one that an earlier start has set.

    OpenTelemetry lets it be set once. The resource of its spans is therefore that of the first service which
    a process starts; tests start several.
    """
    with _opening:
        provider = trace.get_tracer_provider()
        if not isinstance(provider, _Provider):
            provider = _Provider(service)
            trace.set_tracer_provider(provider)
        if exports:
            provider.outlet.open()
        return provider.outlet


class _Provider(TracerProvider):
    def __init__(self, service: str) -> None:
        super().__init__(resource=_make_resource(service), shutdown_on_exit=False)
        self.outlet = Outlet()
        self.add_span_processor(self.outlet)


def _make_resource(service: str) -> Resource:
    attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    is_named = bool(os.environ.get("OTEL_SERVICE_NAME")) or f"{SERVICE_NAME}=" in attributes
    return Resource.create({} if is_named else {SERVICE_NAME: service})


class Outlet(SpanProcessor):
    """Passes ended spans to an exporter while a service runs; a provider itself cannot be opened again."""

    def __init__(self) -> None:
        self._processor: BatchSpanProcessor | None = None

    def open(self) -> None:
        """Begin to send."""
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def close(self) -> None:
        """Send what is left, and end."""
        processor, self._processor = self._processor, None
        if processor is not None:
            processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK leaves it out

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is there, when the service asks its provider to."""
        return self._processor is None or self._processor.force_flush(timeout_millis)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing yet."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that is complete."""
        if self._processor is not None:
            self._processor.on_end(span)

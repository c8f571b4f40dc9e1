"""A call to another service belongs to the trace of the code that makes it."""

from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider

from backstay.telemetry.traces import trace_headers


def test_inside_a_span_they_name_it() -> None:
    tracer = TracerProvider().get_tracer("test")

    with tracer.start_as_current_span("calling") as span:
        ids = span.get_span_context()
        assert trace_headers() == {
            "traceparent": f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
        }


def test_outside_of_one_there_are_none() -> None:
    assert trace_headers() == {}


def test_baggage_stays_here() -> None:
    """A caller wrote it, and who is called next is none of its business."""
    token = context.attach(baggage.set_baggage("iban", "DE02"))
    try:
        assert trace_headers() == {}
    finally:
        context.detach(token)

"""What a log line costs, measured against its bounds and against the standard library in the same run.

Run it with `python benchmarks/log_line.py`; it exits with 1 when a bound is missed. The machine may be
shared: the contenders take turns, and the fastest of the rounds counts.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import TextIO

from backstay.logging import bound_context, configure_logging, get_logger
from backstay.settings import LoggingSettings

ROUNDS = 15
CALLS = 5_000
LINE_BOUND_US = 8.0
SUPPRESSED_BOUND_US = 0.3

CONTEXT = {"request_id": "0192f1c8e3b27d51", "route": "/orders/{order_id}", "principal": "user:7"}
# All different, so that nothing remembered from the line before helps.
CUSTOMERS = [f"Customer number {number}" for number in range(CALLS)]

Contender = Callable[[], None]


def main() -> int:
    """Measure, print the sentence and return the exit code."""
    with open(os.devnull, "w") as stream:  # noqa: PTH123  devnull is no path on every system
        configure_logging(LoggingSettings(level="INFO", format="json"), stream=stream)
        with bound_context(**CONTEXT):
            costs_us = measure(make_contenders(stream))
    line, suppressed, standard = costs_us["line"], costs_us["suppressed"], costs_us["standard"]
    print(
        f"A log line costs {line:.2f} us with redaction and control-character filter on "
        f"(bound {LINE_BOUND_US:g}), a suppressed one {suppressed:.3f} us (bound {SUPPRESSED_BOUND_US:g})."
    )
    print(
        f"The standard library with a JSON formatter and neither: {standard:.2f} us, so ours takes "
        f"{line / standard:.2f} times as long; its records in our shape: {costs_us['record']:.2f} us."
    )
    return 0 if line < LINE_BOUND_US and suppressed < SUPPRESSED_BOUND_US else 1


def make_contenders(stream: TextIO) -> dict[str, Contender]:
    """Return what is compared, each writing (or suppressing) `CALLS` lines with the same fields."""
    ours, records, standard = (
        get_logger("shop.orders"),
        logging.getLogger("shop.orders"),
        make_standard(stream),
    )

    def log_line() -> None:
        for number, customer in enumerate(CUSTOMERS):
            ours.info("order accepted", order_id=number, total=12.5, customer=customer)

    def log_suppressed() -> None:
        for number, customer in enumerate(CUSTOMERS):
            ours.debug("order accepted", order_id=number, total=12.5, customer=customer)

    def log_record() -> None:
        for number, customer in enumerate(CUSTOMERS):
            records.info("order accepted", extra={"order_id": number, "total": 12.5, "customer": customer})

    def log_standard() -> None:
        for number, customer in enumerate(CUSTOMERS):
            fields = {**CONTEXT, "order_id": number, "total": 12.5, "customer": customer}
            standard.info("order accepted", extra={"fields": fields})

    return {
        "line": log_line,
        "suppressed": log_suppressed,
        "record": log_record,
        "standard": log_standard,
    }


class JsonFormatter(logging.Formatter):
    """What a service writes by hand: the same keys, nothing redacted, nothing filtered."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        fields = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **vars(record)["fields"],
        }
        return json.dumps(fields)


def make_standard(stream: TextIO) -> logging.Logger:
    """Return a logger of the standard library that writes to the same stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("standard")
    logger.propagate = False
    logger.addHandler(handler)
    return logger


def measure(contenders: dict[str, Contender]) -> dict[str, float]:
    """Return the microseconds per call of each contender in its fastest round."""
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    gc.disable()
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            started_ns = perf_counter_ns()
            contender()
            rounds[name].append((perf_counter_ns() - started_ns) / CALLS / 1000)
        gc.collect()
    gc.enable()
    return {name: min(costs_us) for name, costs_us in rounds.items()}


if __name__ == "__main__":
    sys.exit(main())

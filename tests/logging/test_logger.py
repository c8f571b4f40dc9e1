from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import structlog
from structlog.testing import capture_logs

from backstay.logging import captured_logs, configure_logging, get_logger
from backstay.settings import LoggingSettings

if TYPE_CHECKING:
    from tests.logging.conftest import Lines

logger = get_logger("shop.orders")


class Watched:
    """Knows whether anybody looked at it."""

    was_looked_at = False

    def __str__(self) -> str:
        self.was_looked_at = True
        return "seen"

    __repr__ = __str__


def test_a_logger_without_a_name_has_its_modules(lines: Lines) -> None:
    get_logger().info("order accepted")

    assert lines.read_event()["logger"] == __name__


def test_each_method_writes_its_level(lines: Lines) -> None:
    for write in (logger.debug, logger.info, logger.warning, logger.error, logger.critical, logger.exception):
        write("order accepted")
    logger.log(logging.WARNING, "order accepted")
    logger.log(15, "order accepted")

    assert [event["level"] for event in lines.read_events()] == [
        "debug",
        "info",
        "warning",
        "error",
        "critical",
        "error",
        "warning",
        "level 15",
    ]


def test_a_suppressed_call_writes_nothing_and_looks_at_no_value(lines: Lines) -> None:
    configure_logging(LoggingSettings(level="CRITICAL"), stream=lines)
    value = Watched()

    with captured_logs() as events:
        logger.debug("order accepted", value=value)
        logger.info("order %s accepted", value)
        logger.warning("order accepted", value=value)
        logger.error("order accepted", value=value)
        logger.exception("order accepted", value=value)  # noqa: LOG004  nothing is written
        logger.log(logging.ERROR, "order accepted", value=value)

    assert events == []
    assert not value.was_looked_at
    assert lines.read_text() == ""
    assert not logger.is_enabled_for(logging.ERROR)
    assert logger.is_enabled_for(logging.CRITICAL)


def test_a_bound_logger_adds_its_values_and_leaves_the_first_alone(lines: Lines) -> None:
    bound = logger.bind(tenant="acme", order_id=7)

    bound.info("one", order_id=8)
    bound.unbind("tenant").info("two")
    logger.info("three")

    one, two, three = lines.read_events()
    assert (one["tenant"], one["order_id"]) == ("acme", 8)
    assert "tenant" not in two
    assert two["order_id"] == 7
    assert "order_id" not in three


def test_percent_arguments_work_as_in_the_standard_library(lines: Lines) -> None:
    logger.info("order %s of %d", "A-1", 7)
    logger.info("order %(sku)s", {"sku": "A-1"})

    assert [event["event"] for event in lines.read_events()] == ["order A-1 of 7", "order A-1"]


def test_percent_arguments_that_do_not_fit_are_kept(lines: Lines) -> None:
    logger.info("order %d", "A-1", sku="A-1")

    event = lines.read_event()
    assert event["event"] == "order %d"
    assert event["positional_args"] == ["A-1"]
    assert event["sku"] == "A-1"


def test_a_value_never_replaces_a_key_that_every_line_has(lines: Lines) -> None:
    logger.info("order accepted", event="mine", level=3, logger="x", timestamp=0, exception="y")

    event = lines.read_event()
    assert (event["event"], event["level"], event["logger"]) == ("order accepted", "info", "shop.orders")
    assert (event["event_"], event["level_"], event["logger_"]) == ("mine", 3, "x")
    assert (event["timestamp_"], event["exception_"]) == (0, "y")


def test_a_logger_made_before_the_configuration_follows_each_one() -> None:
    early = get_logger("early")
    for level, expected in (("WARNING", 0), ("INFO", 1)):
        configure_logging(LoggingSettings(level=level))
        with captured_logs() as events:
            early.info("order accepted")
        assert len(events) == expected


def test_structlogs_own_loggers_write_the_same_line(lines: Lines) -> None:
    structlog.get_logger("shop.orders").bind(order_id=7).info("order accepted")
    structlog.get_logger().info("order accepted", order_id=7)
    logger.info("order accepted", order_id=7)

    named, unnamed, ours = lines.read_events()
    for event in (named, unnamed, ours):
        event.pop("timestamp")
    assert named == ours
    assert unnamed == {**ours, "logger": "root"}


def test_structlogs_own_testing_tool_works(lines: Lines) -> None:
    with capture_logs() as events:
        logger.info("order accepted", order_id=7)

    assert (events[0]["event"], events[0]["order_id"]) == ("order accepted", 7)
    assert lines.read_text() == ""


def test_captured_events_are_processed_redacted_and_still_written(lines: Lines) -> None:
    with captured_logs() as outer:
        with captured_logs() as inner:
            logger.info("signed in", password="canary")
        logging.getLogger("uvicorn.error").info("started")
    logger.info("after")

    assert [event["event"] for event in outer] == ["signed in", "started"]
    assert inner == outer[:1]
    assert inner[0]["password"] == "[redacted]"
    assert len(lines.read_events()) == 3

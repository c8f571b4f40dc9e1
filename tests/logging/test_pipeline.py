from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import pytest

from backstay.logging import (
    DropEvent,
    EventDict,
    Processor,
    bound_context,
    captured_logs,
    configure_logging,
    dropped_events,
    get_logger,
)
from backstay.settings import LoggingSettings

if TYPE_CHECKING:
    from tests.logging.conftest import Lines

logger = get_logger("shop.orders")


def configure(stream: Lines, *processors: Processor) -> None:
    configure_logging(LoggingSettings(format="json"), stream=stream, processors=processors)


def test_the_timestamp_is_utc_with_microseconds(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        before = datetime.now(UTC)
        logger.info("ours")
        logging.getLogger("theirs").info("theirs")
        after = datetime.now(UTC)
    finally:
        monkeypatch.undo()
        time.tzset()

    for event in lines.read_events():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["timestamp"])
        assert before <= datetime.fromisoformat(event["timestamp"]) <= after


def test_a_users_processor_sees_the_context_and_what_it_adds_is_redacted(lines: Lines) -> None:
    seen: list[str] = []

    def add_region(origin: object, level: str, event: EventDict) -> EventDict:
        seen.append(f"{getattr(origin, 'name', None)} {level} {event['request_id']}")
        event.update({"region": "eu", "api_key": "canary", "nested": {"token": "canary", "line": "a\nb"}})
        return event

    configure(lines, add_region)
    with bound_context(request_id="8f2c"):
        logger.info("ours")
        logging.getLogger("theirs").warning("theirs")

    assert seen == ["shop.orders info 8f2c", "theirs warning 8f2c"]
    for event in lines.read_events():
        assert event["region"] == "eu"
        assert event["api_key"] == "[redacted]"
        assert event["nested"] == {"token": "[redacted]", "line": "a\\nb"}


def test_a_users_processor_may_drop_an_event(lines: Lines) -> None:
    def drop_probes(_origin: object, _level: str, event: EventDict) -> EventDict:
        if event.get("path") == "/livez":
            raise DropEvent
        return event

    configure(lines, drop_probes)
    before = dropped_events()
    logger.info("request finished", path="/livez")
    logging.getLogger("theirs").info("request finished", extra={"path": "/livez"})
    logger.info("request finished", path="/orders")

    assert lines.read_event()["path"] == "/orders"
    assert dropped_events() == before


def test_a_users_processor_that_fails_is_named_and_the_event_is_written(lines: Lines) -> None:
    def fail(_origin: object, _level: str, _event: EventDict) -> NoReturn:
        raise RuntimeError("token=canary-0123456789")

    class Forgetful:
        def __call__(self, _origin: object, _level: str, _event: EventDict) -> str:
            return "nothing"

    configure(lines, fail)
    logger.info("order accepted", order_id=7)
    configure(lines, Forgetful())
    logger.info("order accepted", order_id=7)

    failed, forgotten = lines.read_events()
    assert failed["order_id"] == forgotten["order_id"] == 7
    assert failed["processor_error"].endswith("fail: RuntimeError: token=[redacted]")
    assert forgotten["processor_error"].endswith("Forgetful returned str, not the event")


def test_a_users_processor_may_rename_the_event(lines: Lines) -> None:
    def rename(_origin: object, _level: str, event: EventDict) -> EventDict:
        event["message"] = event.pop("event")
        return event

    configure(lines, rename)
    logger.info("order accepted")

    assert lines.read_event()["message"] == "order accepted"


def test_a_key_that_cannot_be_shown_does_not_lose_the_event(lines: Lines) -> None:
    class Key:
        def __str__(self) -> str:
            raise RuntimeError("no name")

    def add_key(_origin: object, _level: str, event: EventDict) -> EventDict:
        event[Key()] = 1  # type: ignore[index]  # what a careless processor does
        return event

    configure(lines, add_key)
    logger.info("order accepted")
    logger.info(7)  # type: ignore[arg-type]  # and a careless caller

    first, second = lines.read_events()
    assert (first["event"], first["logging_error"]) == ("order accepted", "RuntimeError: no name")
    assert second["event"] == "<int>"


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (7, "7"),
        ({"a": 1}, '{"a":1}'),
        (ValueError("bad"), "ValueError: bad"),
        (None, "null"),
        (b"x\n", "x\\n"),
    ],
)
def test_an_event_that_is_no_text_becomes_one(lines: Lines, event: object, shown: str) -> None:
    logger.info(event)  # type: ignore[arg-type]  # what the test is about

    assert lines.read_event()["event"] == shown


def test_before_the_configuration_events_are_written_with_the_default_settings() -> None:
    """A library's logger must work in a script that configures nothing."""
    with captured_logs() as events:
        logger.info("order accepted", password="canary")
        logger.debug("suppressed")

    assert [event["event"] for event in events] == ["order accepted"]
    assert events[0]["password"] == "[redacted]"


def test_keys_of_the_settings_are_redacted_too(lines: Lines) -> None:
    configure_logging(LoggingSettings(format="json", redact_keys=("shoe_size",)), stream=lines)

    logger.info("measured", shoe_size="44", nested={"shoe_size": "44"})

    event = lines.read_event()
    assert event["shoe_size"] == "[redacted]"
    assert event["nested"] == {"shoe_size": "[redacted]"}


def test_the_stack_is_told_on_request(lines: Lines) -> None:
    logger.info("ours", stack_info=True)
    logging.getLogger("theirs").info("theirs", stack_info=True)

    for event in lines.read_events():
        assert any("test_the_stack_is_told_on_request" in line for line in event["stack"])

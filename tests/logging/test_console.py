# ruff: noqa: TRY301  errors that are raised and caught are what is tested
from __future__ import annotations

import re
from typing import TYPE_CHECKING

import sqlalchemy

from backstay.logging import EventDict, configure_logging, get_logger
from backstay.settings import LoggingSettings

if TYPE_CHECKING:
    from tests.logging.conftest import Lines

logger = get_logger("shop")


def test_a_line_is_aligned_time_level_event_values_and_name(console: Lines) -> None:
    logger.info("order accepted", order_id=7, customer="Ada Lovelace", tags=["a", "b"], note="", paid=True)
    logger.warning("upstream is slow", seconds=1.25)

    first, second = console.read_text().splitlines()
    time = r"\d\d:\d\d:\d\d\.\d\d\d"
    assert re.fullmatch(
        rf'{time} info     order accepted               order_id=7 customer="Ada Lovelace" '
        r'tags=\["a","b"\] note="" paid=true \[shop\]',
        first,
    )
    assert re.fullmatch(rf"{time} warning  upstream is slow             seconds=1.25 \[shop\]", second)


def test_a_traceback_reads_like_pythons_with_the_first_cause_first(console: Lines) -> None:
    try:
        try:
            raise KeyError("sku")
        except KeyError as error:
            raise ValueError("bad\nline") from error
    except ValueError:
        logger.exception("order failed")

    lines = [line.strip() for line in console.read_text().splitlines()]
    assert lines[0].endswith("order failed                 [shop]")
    assert re.fullmatch(
        r'File "tests/logging/test_console.py", line \d+, in test_a_traceback_reads.*', lines[1]
    )
    assert lines[2] == 'raise KeyError("sku")'
    assert lines[3:5] == ["KeyError: 'sku'", "which led to"]
    assert lines[6:] == ['raise ValueError("bad\\nline") from error', "ValueError: bad\\nline"]


def test_a_frame_without_a_source_is_shown_without_one(console: Lines) -> None:
    try:
        exec(compile("1 / 0", "<rules>", "exec"))  # noqa: S102  code without a file is what is tested
    except ZeroDivisionError:
        logger.exception("order failed")

    lines = [line.strip() for line in console.read_text().splitlines()]
    assert lines[-2:] == ['File "<rules>", line 1, in <module>', "ZeroDivisionError: division by zero"]


def test_frames_of_libraries_are_folded_around_our_own(console: Lines) -> None:
    try:
        sqlalchemy.create_engine("sqlite:////no/such/folder/x.db").connect()
    except sqlalchemy.exc.OperationalError:
        logger.exception("deep")

    lines = [line.strip() for line in console.read_text().splitlines()]
    assert any(re.fullmatch(r"… \d+ frames in sqlalchemy", line) for line in lines)
    assert sum("/site-packages/sqlalchemy/" in line for line in lines) <= 3
    assert any(line.startswith('File "tests/logging/test_console.py"') for line in lines)
    assert lines[-1].startswith("sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) unable to open")


def test_groups_notes_and_stacks_are_indented_below_their_line(console: Lines) -> None:
    member = ValueError("one")
    member.add_note("see the manual")

    logger.error("order failed", exc_info=ExceptionGroup("both", [member, TypeError("two")]), stack_info=True)

    lines = console.read_text().splitlines()
    assert all(line.startswith("    ") for line in lines[1:])
    assert [line.strip() for line in lines[-6:]] == [
        "ExceptionGroup: both (2 sub-exceptions)",
        "1 of 2",
        "ValueError: one",
        "see the manual",
        "2 of 2",
        "TypeError: two",
    ]


def test_a_processor_that_changes_the_usual_keys_does_not_break_the_line(console: Lines) -> None:
    def change(_origin: object, _level: str, event: EventDict) -> EventDict:
        return {"message": event["event"], "timestamp": "now"}

    configure_logging(LoggingSettings(format="console"), stream=console, processors=[change])
    logger.info("order accepted")

    assert console.read_text().startswith("now ")
    assert 'message="order accepted"' in console.read_text()

# ruff: noqa: G004, S608  the texts look like mistakes, which is what is tested
from __future__ import annotations

import enum
import logging
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr

from backstay.logging import (
    EventDict,
    bound_context,
    captured_logs,
    dropped_events,
    get_logger,
)
from backstay.redaction import Sensitive

if TYPE_CHECKING:
    from tests.logging.conftest import Lines

logger = get_logger("shop")
theirs = logging.getLogger("some.library")

CANARY = "canary-3f9c1e7a5b"
LIMIT = 8192


class Account(BaseModel):
    name: str
    password: str = CANARY
    email: Annotated[str, Sensitive] = CANARY
    pin: SecretStr = SecretStr(CANARY)


class Plain(BaseModel):
    name: str


@dataclass
class Login:
    name: str
    password: str = CANARY


@dataclass
class Point:
    x: int = 1
    near: list[int] = field(default_factory=lambda: [2])


class Credentials(NamedTuple):
    user: str
    password: str


class Color(enum.Enum):
    RED = "red"


SQL_ERROR = (
    "(sqlite3.IntegrityError) UNIQUE constraint failed: users.email\n"
    "[SQL: INSERT INTO users (email, note) VALUES (?, ?)]\n"
    f"[parameters: ('{CANARY}', 'a]b\\n{CANARY}')]\n"
    "(Background on this error at: https://sqlalche.me/e/20/gkpj)"
)
POSTGRESQL_ERROR = (
    "<class 'asyncpg.exceptions.UniqueViolationError'>: duplicate key value violates unique constraint\n"
    f"DETAIL:  Key (lower(email::text))=({CANARY} (x)\n{CANARY}) already exists.\n"
    "[SQL: INSERT INTO users (email) VALUES ($1)]\n"
    f"[parameters: ('{CANARY}',)]"
)


def log_everywhere() -> None:
    """Log a secret in each of the places where one can be."""
    log = logger.bind(api_key=CANARY)
    with bound_context(session_token=CANARY):
        log.info("by key", password=CANARY, X_API_Key=CANARY, nested={"deep": [{"token": CANARY}]})
        theirs.warning("in an extra", extra={"client_secret": CANARY, "headers": {b"authorization": CANARY}})
    log.info("by type", value=SecretStr(CANARY), values=[SecretStr(CANARY)], account=Account(name="Ada"))
    log.info("by field", login=Login("Ada"), pair=Credentials("Ada", CANARY), many=[Login("Ada")])
    log.info("header pairs", headers=[(b"authorization", CANARY.encode()), ("cookie", CANARY)])
    log.info("by the look", url=f"https://ada:{CANARY}@h/?token={CANARY}", body=f"password={CANARY}".encode())
    log.info(f"in the event https://h/?access_token={CANARY}")
    log.info("in an argument %s", f"Bearer {CANARY}")
    log.info("wrong %d", f"Authorization: Bearer {CANARY}")
    theirs.warning("GET %s", f"postgresql://ada:{CANARY}@db/shop")
    theirs.warning("Authorization: Bearer %s", CANARY)
    log.info("as text", error=SQL_ERROR, shown=repr(SQL_ERROR), value=ValueError(f"token={CANARY}"))
    for message in (
        f"https://h/?token={CANARY}",
        SQL_ERROR,
        POSTGRESQL_ERROR,
        f"Failing row contains (1, {CANARY}).",
    ):
        error = RuntimeError("wrapped")
        error.__cause__ = ValueError(message)
        error.add_note(message)
        log.error("failed", exc_info=ExceptionGroup(message, [error]))
        theirs.error("failed: %s", message, exc_info=error)
    log.info("behind the limit", text="x" * (LIMIT - 5) + f" https://ada:{CANARY}@host/")
    # Redaction makes room here, so that the part of a password in front of the cut would come into view.
    shrinking = "password=" + "z" * 5000 + " " + "x" * (LIMIT - 5000 + 960)
    log.info("cut", text=f"{shrinking} https://ada:{CANARY}" + "y" * 2000 + "@host/")


def test_no_secret_is_in_any_line_in_json(lines: Lines) -> None:
    log_everywhere()

    assert len(lines.read_events()) == 22
    assert CANARY not in lines.read_text()
    assert not any("logging_error" in event for event in lines.read_events())


def test_no_secret_is_in_any_line_on_a_terminal(console: Lines) -> None:
    log_everywhere()

    assert "by key" in console.read_text()
    assert CANARY not in console.read_text()


def test_no_secret_is_in_a_captured_event(lines: Lines) -> None:
    with captured_logs() as events:
        log_everywhere()

    assert len(events) == len(lines.read_events())
    assert CANARY not in repr(events)


def test_what_is_told_about_a_database_error_stays(lines: Lines) -> None:
    logger.info("failed", sqlite=SQL_ERROR, postgresql=POSTGRESQL_ERROR)

    event = lines.read_event()
    assert "UNIQUE constraint failed: users.email" in event["sqlite"]
    assert (
        "[SQL: INSERT INTO users (email, note) VALUES (?, ?)]\\n[parameters: [redacted]]" in event["sqlite"]
    )
    assert event["sqlite"].endswith("(Background on this error at: https://sqlalche.me/e/20/gkpj)")
    assert "Key (lower(email::text))=[redacted]\\n[SQL: INSERT" in event["postgresql"]


def test_ordinary_values_are_left_alone(lines: Lines) -> None:
    values = {"text": "Žofie & 東京", "n": 7, "x": 1.5, "yes": True, "none": None, "list": ["a", {"b": 1}]}

    logger.info("order accepted", **values)

    event = lines.read_event()
    assert {key: event[key] for key in values} == values


def test_a_sensitive_key_without_a_secret_is_left_alone(lines: Lines) -> None:
    logger.info("signed in", password=None, token=True, nested={"password": None, "token": False})

    event = lines.read_event()
    assert (event["password"], event["token"]) == (None, True)
    assert event["nested"] == {"password": None, "token": False}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**64, "0x10000000000000000"),
        ([math.inf, 2**64], ["inf", "0x10000000000000000"]),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(seconds=90), "PT1M30S"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Path("/a/b"), "/a/b"),
        (Color.RED, "red"),
        (b"a\xff", "a\\xff"),
        ((1, "a"), [1, "a"]),
        ({1}, [1]),
        (Plain(name="Ada"), {"name": "Ada"}),
        (Point(), {"x": 1, "near": [2]}),
        (Point, repr(Point)),
        ({1: "a", b"k": "b"}, {"1": "a", "k": "b"}),
        (ValueError("bad"), "ValueError: bad"),
        (object, "<class 'object'>"),
    ],
)
def test_a_value_that_json_does_not_know_becomes_one_that_it_knows(
    value: object, shown: object, lines: Lines
) -> None:
    logger.info("order accepted", value=value)
    theirs.info("order accepted", extra={"value": value})

    assert [event["value"] for event in lines.read_events()] == [shown, shown]


def test_a_value_whose_code_fails_leaves_its_type_behind(lines: Lines) -> None:
    class Broken:
        def __repr__(self) -> NoReturn:
            raise RuntimeError

    class BrokenMapping(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            raise KeyError(key)

        def __iter__(self) -> Iterator[str]:
            raise RuntimeError

        def __len__(self) -> int:
            return 1

    circle: list[object] = []
    circle.append(circle)
    logger.info("order accepted", a=Broken(), b=BrokenMapping(), c=circle, d=7)

    event = lines.read_event()
    assert (event["a"], event["b"], event["d"]) == ("<unloggable Broken>", "<unloggable BrokenMapping>", 7)
    assert "[cut]" in repr(event["c"])


FORBIDDEN = [
    *map(chr, [*range(0x20), *range(0x7F, 0xA0)]),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    "\ud800",
    "\udfff",
]
NASTY = "a" + "b".join(FORBIDDEN) + "c"


def log_nasty_texts() -> int:
    def add(_origin: object, _level: str, event: EventDict) -> EventDict:
        return event

    log = get_logger(f"name{NASTY}").bind(**{f"bound{NASTY}": NASTY})
    log.info(
        NASTY, value=NASTY, nested={NASTY: [NASTY, (NASTY,)]}, raw=NASTY.encode("utf-8", "surrogatepass")
    )
    log.info("%s", NASTY, path=Path(NASTY.replace("\0", "")), model=Plain.model_construct(name=NASTY))
    log.info("failed", exc_info=ValueError(NASTY))
    logging.getLogger(f"their{NASTY}").warning(NASTY, extra={f"extra{NASTY}": NASTY})
    theirs.warning("fake\n2026-01-01 error [shop] you were hacked\r\x1b[2J")
    return 5


def test_no_control_character_is_in_any_line_in_json(lines: Lines) -> None:
    count = log_nasty_texts()

    text = lines.read_text()
    assert text.count("\n") == len(text.splitlines()) == count
    for event in lines.read_events():
        for part in walk(event):
            assert not set(part) & set(FORBIDDEN)
    assert lines.read_events()[0]["value"].startswith("a\\x00b\\x01b")


def test_no_control_character_is_in_any_line_on_a_terminal(console: Lines) -> None:
    count = log_nasty_texts()

    text = console.read_text()
    assert len(text.splitlines()) == count + 1  # a traceback has a line of its own
    assert not set(text) & (set(FORBIDDEN) - {"\n"})
    assert "fake\\n2026-01-01 error [shop] you were hacked\\r\\x1b[2J" in text


def test_the_filter_covers_every_control_and_bidirectional_character() -> None:
    """By the database of characters, not by our list."""
    bidirectional = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    all_of_them = {
        character
        for character in map(chr, range(0x110000))
        if unicodedata.category(character) in {"Cc", "Zl", "Zp"}
        or unicodedata.bidirectional(character) in bidirectional
    }

    assert all_of_them <= set(FORBIDDEN)


def walk(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield key
            yield from walk(child)
    elif isinstance(value, list):
        for child in value:
            yield from walk(child)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 1_000_000,
        lambda: "東" * 4_000,
        lambda: "\x00" * 4_000,
        lambda: ["x" * 1_000] * 1_000,
        lambda: [""] * 1_000_000,
        lambda: list(range(100_000)),
        lambda: [10**5000] * 10,
        lambda: 10**50_000,
        lambda: {f"key{number}": number for number in range(10_000)},
        lambda: {f"token_{number}": number for number in range(10_000)},
        lambda: ValueError("x" * 100_000),
        lambda: {"x" * 100_000: 1},
    ],
)
def test_a_field_longer_than_eight_kilobytes_is_cut_with_a_marker(
    make: Callable[[], object], lines: Lines
) -> None:
    logger.info("order accepted", value=make(), after=7)

    value = lines.read_event()["value"]
    assert lines.read_event()["after"] == 7
    assert sum(len(part.encode()) for part in walk(value)) <= LIMIT
    assert len(lines.getvalue()) < 2.1 * LIMIT
    assert "…[cut]" in repr(value)


def test_a_long_event_message_and_key_are_cut(lines: Lines) -> None:
    logger.info("x" * 100_000, **{"k" * 100_000: 1}, exc_info=ValueError("y" * 100_000))

    event = lines.read_event()
    assert len(event["event"].encode()) == LIMIT
    assert len(event["exception"]["message"].encode()) == LIMIT
    assert len(lines.getvalue()) < 4 * LIMIT


def test_a_field_that_just_fits_is_whole(lines: Lines) -> None:
    logger.info("order accepted", value="x" * LIMIT)

    assert lines.read_event()["value"] == "x" * LIMIT


def test_deep_nesting_ends(lines: Lines) -> None:
    value: object = "deep"
    for _ in range(500):
        value = [value]

    logger.info("order accepted", value=value)

    assert "…[cut]" in repr(lines.read_event()["value"])


def test_many_keys_and_phrases_from_outside_are_still_judged(lines: Lines) -> None:
    """What the scrubber remembers has a bound; what it forgets is judged again."""
    for number in range(3000):
        logger.info(f"phrase {number}", **{f"key_{number}": number})
    logger.info("phrase 1", secret_9999=CANARY, nested={"token_9999": CANARY})

    assert CANARY not in lines.read_text()
    assert len(lines.read_events()) == 3001


def test_a_logging_call_never_raises_and_never_loses_the_event(lines: Lines) -> None:
    before = dropped_events()
    values: list[object] = [
        object(),
        lambda: None,
        iter([]),
        type("X\n", (), {})(),
        float,
        ...,
        range(3),
        re.compile("x"),
    ]
    for value in values:
        logger.info("order accepted", value=value)

    assert len(lines.read_events()) == len(values)
    assert dropped_events() == before

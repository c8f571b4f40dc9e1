from __future__ import annotations

import logging
import sys
import warnings
from typing import TYPE_CHECKING

import httpx2
import pytest
import sqlalchemy
import uvicorn

from backstay.logging import bound_context, configure_logging, get_logger
from backstay.settings import LoggingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.logging.conftest import Lines

LIBRARIES = [
    "uvicorn",
    "uvicorn.error",
    "sqlalchemy.engine.Engine",
    "alembic.runtime.migration",
    "httpx2",
    "some.library",
]


def use_again(stream: Lines) -> None:
    configure_logging(LoggingSettings(level="DEBUG"), production=True, stream=stream)


@pytest.mark.parametrize("name", LIBRARIES)
def test_records_of_any_library_have_exactly_our_keys(name: str, lines: Lines) -> None:
    with bound_context(request_id="8f2c"):
        get_logger("shop").warning("ours", attempt=1)
        logging.getLogger(name).warning("theirs", extra={"attempt": 1})

    ours, theirs = lines.read_events()
    assert list(ours) == list(theirs)
    assert theirs["logger"] == name
    assert (theirs["level"], theirs["event"], theirs["attempt"]) == ("warning", "theirs", 1)


@pytest.mark.parametrize("name", LIBRARIES)
def test_handlers_of_libraries_do_not_write_a_second_line(
    name: str, lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("uvicorn").propagate = False
    if name != "some.library":
        logging.getLogger(name).addHandler(logging.StreamHandler(sys.stdout))
    use_again(lines)

    logging.getLogger(name).warning("started")

    assert lines.read_event()["event"] == "started"
    assert capsys.readouterr() == ("", "")


def test_what_basic_config_left_is_removed(lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
    use_again(lines)

    logging.getLogger("shop").warning("once")

    assert lines.read_event()["event"] == "once"
    assert capsys.readouterr() == ("", "")


def test_uvicorn_with_its_own_configuration_writes_our_lines(lines: Lines) -> None:
    uvicorn.Config(
        "shop.main:app"
    )  # configures logging, as `uvicorn shop.main:app` does before it imports the app
    use_again(lines)

    logging.getLogger("uvicorn.error").info(
        "Uvicorn running on %s", "http://127.0.0.1:8000", extra={"color_message": "\x1b[1mUvicorn\x1b[0m"}
    )
    access = logging.getLogger("uvicorn.access")
    access.info("127.0.0.1 - GET /?token=canary")

    event = lines.read_event()
    assert event["event"] == "Uvicorn running on http://127.0.0.1:8000"
    assert "color_message" not in event
    assert not access.hasHandlers()  # which is how Uvicorn decides to build none


def test_pytests_caplog_sees_records(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("shop").warning("order accepted")

    assert caplog.messages == ["order accepted"]
    assert lines.read_event()["event"] == "order accepted"


def test_python_warnings_become_lines(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        use_again(lines)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)

    event = lines.read_event()
    assert event["logger"] == "py.warnings"
    assert event["level"] == "warning"
    assert event["event"].endswith("DeprecationWarning: old way")


def test_sqlalchemys_echo_writes_each_statement_once_without_parameters_and_rows(
    lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = sqlalchemy.create_engine("sqlite://", echo="debug")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT\n  :value AS value"), {"value": "canary"}).all()
    engine.dispose()

    events = [event["event"] for event in lines.read_events() if event["logger"].endswith("Engine")]
    assert [event for event in events if "SELECT" in event] == ["SELECT ? AS value"]
    assert any(event.startswith("[generated in ") and event.endswith("] [redacted]") for event in events)
    assert "Row [redacted]" in events
    assert "canary" not in lines.read_text()
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def talkative_http_client() -> Iterator[None]:
    """Let the HTTP client write its lines, also once a client of backstay has put them off for its own."""
    logger = logging.getLogger("httpx2")
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


@pytest.mark.usefixtures("talkative_http_client")
def test_the_line_of_an_http_client_has_no_query(lines: Lines) -> None:
    transport = httpx2.MockTransport(lambda _request: httpx2.Response(200))
    with httpx2.Client(transport=transport) as client:
        client.get("https://user:canary@rates.example/v1?q=canary&page=2")

    event = lines.read_event()
    assert event["logger"] == "httpx2"
    assert "https://user:[redacted]@rates.example/v1?[redacted]" in event["event"]
    assert "canary" not in lines.read_text()


@pytest.mark.parametrize("name", ["httpcore2", "httpcore2.http11", "httpcore", "hpack.hpack", "aiosqlite"])
def test_headers_of_http_clients_are_not_logged_at_debug(name: str, lines: Lines) -> None:
    logging.getLogger(name).debug("receive_response_headers.complete set-cookie: canary")

    assert lines.read_text() == ""


def test_a_level_that_somebody_set_is_left_alone(lines: Lines) -> None:
    talkative = logging.getLogger("hpack")
    before = talkative.level
    talkative.setLevel(logging.ERROR)
    use_again(lines)

    assert talkative.level == logging.ERROR
    talkative.setLevel(before)


def test_arguments_that_do_not_fit_are_kept(
    lines: Lines, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if type(handler).__module__.startswith("backstay")]
    monkeypatch.setattr(root, "handlers", ours)  # pytest's own raises for such a record

    logging.getLogger("some.library").warning("order %d of %d", "A-1 token=canary-0123456789")  # noqa: PLE1206  the mistake is what is tested

    event = lines.read_event()
    assert event["event"] == "order %d of %d"
    assert event["positional_args"] == ["A-1 token=[redacted]"]
    assert capsys.readouterr() == ("", "")


def test_a_record_carries_its_exception(lines: Lines) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logging.getLogger("some.library").exception("failed")

    exception = lines.read_event()["exception"]
    assert (exception["type"], exception["message"]) == ("ZeroDivisionError", "division by zero")

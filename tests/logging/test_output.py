from __future__ import annotations

import io
import json
import os
import sys
import threading
from typing import IO, TYPE_CHECKING

import pytest

from backstay.logging import configure_logging, dropped_events, get_logger
from backstay.settings import LoggingSettings

if TYPE_CHECKING:
    from pathlib import Path

logger = get_logger("shop")


def configure(stream: IO[str] | IO[bytes] | None) -> None:
    configure_logging(LoggingSettings(format="json"), stream=stream)


def log_and_count_drops(times: int = 1) -> int:
    before = dropped_events()
    for _ in range(times):
        logger.info("order accepted", order_id=7)
    return dropped_events() - before


def test_a_closed_pipe_is_counted_and_never_raises() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stream:
        configure(stream)

        assert log_and_count_drops(3) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full disk at hand")  # noqa: PTH110
def test_a_full_disk_is_counted_and_never_raises() -> None:
    with open("/dev/full", "wb", buffering=0) as stream:  # noqa: PTH123
        configure(stream)

        assert log_and_count_drops() == 1


def test_a_full_pipe_that_does_not_block_is_counted_and_never_raises() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0) as stream:
        configure(stream)
        before = dropped_events()

        logger.info("large", **{f"field_{number}": "x" * 8000 for number in range(20)})

        assert dropped_events() - before == 1
        assert log_and_count_drops() == 1


def test_a_line_larger_than_a_pipe_arrives_whole() -> None:
    reading, writing = os.pipe()
    received: list[bytes] = []
    with os.fdopen(reading, "rb") as source:
        thread = threading.Thread(target=lambda: received.append(source.read()))
        thread.start()
        with os.fdopen(writing, "wb", buffering=0) as stream:
            configure(stream)
            logger.info("large", **{f"field_{number}": "x" * 8000 for number in range(20)})
        thread.join()

    assert json.loads(received[0])["field_19"] == "x" * 8000


def test_a_closed_stream_is_counted_and_its_descriptor_not_used_again(tmp_path: Path) -> None:
    stream = (tmp_path / "log").open("wb")
    configure(stream)
    assert log_and_count_drops() == 0
    stream.close()
    with (tmp_path / "other").open("wb"):
        assert log_and_count_drops() == 1

    assert (tmp_path / "other").read_bytes() == b""


def test_no_standard_output_is_counted_and_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    configure(None)

    assert log_and_count_drops() == 1


def test_a_stream_that_fails_is_counted_and_never_raises() -> None:
    class Failing(io.StringIO):
        def write(self, text: str, /) -> int:
            raise RuntimeError(text)

    configure(Failing())

    assert log_and_count_drops() == 1


def test_standard_output_is_looked_up_for_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    """So that whoever redirects it, such as a test, gets the lines."""
    configure(None)

    logger.info("order accepted")

    assert json.loads(capsys.readouterr().out)["event"] == "order accepted"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_text_stream_gets_text(encoding: str) -> None:
    raw = io.BytesIO()
    configure_logging(LoggingSettings(format="console"), stream=io.TextIOWrapper(raw, encoding=encoding))

    logger.info("order accepted", customer="Žofie")

    shown = {"utf-8": "Žofie", "latin-1": "\\u017dofie"}[encoding]
    assert shown in raw.getvalue().decode(encoding)


def test_a_file_gets_each_line_at_once(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        configure(stream)
        logger.info("order accepted")

        assert json.loads((tmp_path / "log").read_text())["event"] == "order accepted"

"""Spans of time are written as in `ttl=`, with fractions and weeks."""

from datetime import timedelta
from typing import Any

import pytest

from backstay.cache.limits import parse_duration
from backstay.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("1.5h", timedelta(minutes=90)),
        ("15m", timedelta(minutes=15)),
        ("1h30m", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1w", timedelta(weeks=1)),
        (timedelta(seconds=3), timedelta(seconds=3)),
    ],
)
def test_a_span_is_read(text: str | timedelta, span: timedelta) -> None:
    assert parse_duration(text, of="ttl") == span


@pytest.mark.parametrize(
    "text", ["0", "0s", "0.0h", "", "15", "-1m", "1y", "m", "1 m", "1e3s", "999999999w", 15, None]
)
def test_what_is_no_span_is_refused(text: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"`per` of .* is .*, .*such as '500ms'"):
        parse_duration(text, of="`per` of the rate limit 'x'")


def test_nothing_is_no_span() -> None:
    with pytest.raises(ConfigurationError, match="longer than nothing"):
        parse_duration(timedelta(0), of="ttl")

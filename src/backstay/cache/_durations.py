"""Spans of time as one writes them: `15m`, `500ms`, `1.5h`, `1w`."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from backstay.errors import ConfigurationError
from backstay.settings import read_span

__all__ = ["parse_duration"]

_EXAMPLES: Final = "such as '500ms', '15m', '1.5h', '1h30m' or '1w'"


def parse_duration(duration: str | timedelta, *, of: str) -> timedelta:
    """Return a span of time that is longer than nothing.

    Args:
        duration: A timedelta, or a text such as `15m` or `1h30m`.
        of: What it is the duration of, for the error: "`per` of the rate limit 'login:{ip}'".

    Raises:
        ConfigurationError: It is no span of time, or is no longer than nothing.
    """
    span = duration if isinstance(duration, timedelta) else _parse(duration)
    if span is None:
        raise ConfigurationError(f"{of} is {duration!r}, which is no span of time; write one {_EXAMPLES}.")
    if span <= timedelta(0):
        raise ConfigurationError(f"{of} is {duration!r}; it has to be longer than nothing, {_EXAMPLES}.")
    return span


def _parse(text: object) -> timedelta | None:
    return read_span(text.strip()) if isinstance(text, str) else None

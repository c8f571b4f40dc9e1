"""Spans of time as one writes them: `15m`, `500ms`, `1.5h`, `1h30m`, `1w`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

__all__ = ["read_span"]

_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d|w)")
_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def read_span(text: str) -> timedelta | None:
    """Return the span that amounts and units, from `ms` to `w`, add up to; None when the text is no span."""
    if not re.fullmatch(rf"(?:{_PART.pattern})+", text):
        return None
    try:
        return sum((float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text)), timedelta(0))
    except OverflowError:  # more than 2.7 million years
        return None

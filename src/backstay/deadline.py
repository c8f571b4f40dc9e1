"""The time left, carried in the context of a call.

A deadline is a number, a reading of the monotonic clock, and costs nothing until somebody waits and asks
what is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

from backstay.errors import DeadlineExceededError

__all__ = ["check_deadline", "deadline", "seconds_left"]

_ends_at: ContextVar[float | None] = ContextVar("backstay.deadline", default=None)


@contextmanager
def deadline(limit: timedelta) -> Iterator[None]:
    """Give the block at most `limit`, or less when a deadline around it ends earlier."""
    ends_at = time.monotonic() + limit.total_seconds()
    outer = _ends_at.get()
    token = _ends_at.set(ends_at if outer is None else min(ends_at, outer))
    try:
        yield
    finally:
        _ends_at.reset(token)


def seconds_left(*, at_most: float | None = None) -> float | None:
    """Return the seconds until the deadline, never below zero; None without a deadline.

    Args:
        at_most: A limit of the caller's own; the smaller of the two is returned.
    """
    ends_at = _ends_at.get()
    if ends_at is None:
        return at_most
    left = max(0.0, ends_at - time.monotonic())
    return left if at_most is None else min(left, at_most)


def check_deadline() -> None:
    """Do nothing while time is left.

    Raises:
        DeadlineExceededError: The deadline has passed.
    """
    if seconds_left() == 0.0:
        raise DeadlineExceededError

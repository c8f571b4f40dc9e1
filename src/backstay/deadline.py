"""The time left, carried in the context of a call.

A deadline is a number, a reading of the monotonic clock, and costs nothing until somebody waits and asks
what is left. A request has one of its own in its `Call`; a block inside of it can have an earlier one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, Token, copy_context
from datetime import timedelta
from math import inf
from typing import overload

from backstay.errors import DeadlineExceededError

__all__ = [
    "Call",
    "check_deadline",
    "current_call",
    "deadline",
    "detached_context",
    "enter_call",
    "leave_call",
    "seconds_left",
    "without_deadline",
]


class Call:
    """One request, as what it waits for sees it.

    All tasks of the request share the object, so that a deadline which is moved or lifted is so for each.

    Attributes:
        ends_at: When it has to end, by `time.monotonic()`; infinite without a deadline.
        keeps_place: Whether it keeps its place among those who may have connections while it has none.
        waits_for_turn: Whether it waits for a connection now, behind others, or did so in vain.
        has_committed: Whether a change was committed in it, so that it must not run again.
    """

    __slots__ = ("__weakref__", "ends_at", "has_committed", "keeps_place", "waits_for_turn")

    def __init__(self, ends_at: float = inf) -> None:
        self.ends_at = ends_at
        self.keeps_place = self.waits_for_turn = self.has_committed = False

    def lift_deadline(self) -> None:
        """Let what is left of the request take as long as it likes."""
        self.ends_at = inf


_call: ContextVar[Call | None] = ContextVar("backstay.call", default=None)
_ends_at: ContextVar[float] = ContextVar("backstay.deadline", default=inf)


def enter_call(call: Call) -> Token[Call | None]:
    """Make the running code part of a call, until `leave_call` gets the token that is returned."""
    return _call.set(call)


def leave_call(token: Token[Call | None]) -> None:
    """Be part of what was there before `enter_call`."""
    _call.reset(token)


def current_call() -> Call | None:
    """Return the request that the running code is part of; None in scripts, background tasks, WebSockets."""
    return _call.get()


@contextmanager
def deadline(limit: timedelta) -> Iterator[None]:
    """Give the block at most `limit`, or less when a deadline around it ends earlier."""
    token = _ends_at.set(min(time.monotonic() + limit.total_seconds(), _ends_at.get()))
    try:
        yield
    finally:
        _ends_at.reset(token)


@contextmanager
def without_deadline() -> Iterator[None]:
    """Run the block as if no request were around it: for what has to be done however late it is."""
    call_token, end_token = _call.set(None), _ends_at.set(inf)
    try:
        yield
    finally:
        _call.reset(call_token)
        _ends_at.reset(end_token)


def detached_context() -> Context:
    """Return a copy of the context, for a task that outlives the request it is started in."""
    context = copy_context()
    context.run(_detach)
    return context


def _detach() -> None:
    _call.set(None)
    _ends_at.set(inf)


@overload
def seconds_left(*, at_most: float) -> float: ...
@overload
def seconds_left(*, at_most: float | None = None) -> float | None: ...
def seconds_left(*, at_most: float | None = None) -> float | None:
    """Return the seconds until the deadline, never below zero; None without a deadline.

    Args:
        at_most: A limit of the caller's own; the smaller of the two is returned.
    """
    ends_at, call = _ends_at.get(), _call.get()
    if call is not None and call.ends_at < ends_at:
        ends_at = call.ends_at
    if ends_at == inf:
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

"""What happened while a test ran: all events, or the statements of a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar, overload

import pytest

from backstay.events import Event, QueryExecuted, subscribed
from backstay.testing._arranging import is_arranging

__all__ = ["Events", "assert_queries"]

E = TypeVar("E", bound=Event)

# How a transaction begins and ends differs between databases, and is not what a test counts.
_TRANSACTION_WORDS = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE")
_STARTED_FIRST = ("runtime", "live_server", "client", "database")


class Events(Sequence[Event]):
    """The events so far, oldest first."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def record(self, event: Event) -> None:
        """Keep an event; what the plugin does itself is left out."""
        if not is_arranging():
            self._events.append(event)

    @property
    def last(self) -> Event:
        """The latest event.

        Raises:
            LookupError: Nothing has happened.
        """
        if not self._events:
            raise LookupError("No event was recorded.")
        return self._events[-1]

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind, oldest first."""
        return [event for event in self._events if isinstance(event, kind)]

    def clear(self) -> None:
        """Forget what happened so far."""
        self._events.clear()

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def __repr__(self) -> str:
        return f"Events({self._events!r})"


class assert_queries:  # noqa: N801  reads as the function that it stands for
    """Assert how many statements a block sends to the database: `with assert_queries(2):`, or `async with`.

    Counts what any session of this process sends, `BEGIN`, `COMMIT` and savepoints aside. When the number is
    another one, the error lists the statements.

    Args:
        count: Exactly so many.
        at_most: No more than so many; instead of `count`.
    """

    def __init__(self, count: int | None = None, *, at_most: int | None = None) -> None:
        if (count is None) == (at_most is None):
            raise TypeError("assert_queries() takes a count, or at_most=..., and not both.")
        self._count = count
        self._at_most = at_most
        self._events = Events()
        self._recording = ExitStack()

    @property
    def statements(self) -> list[str]:
        """The statements so far."""
        sent = (event.statement for event in self._events.of(QueryExecuted))
        return [
            statement for statement in sent if not statement.lstrip().upper().startswith(_TRANSACTION_WORDS)
        ]

    def __enter__(self) -> Self:
        self._recording.enter_context(subscribed(self._events.record))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._recording.close()
        if error is None and not self._is_met():
            raise AssertionError(self._report())

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self.__exit__(kind, error, traceback)

    def _is_met(self) -> bool:
        count = len(self.statements)
        return count == self._count if self._at_most is None else count <= self._at_most

    def _report(self) -> str:
        statements = self.statements
        wanted = f"{self._count}" if self._at_most is None else f"at most {self._at_most}"
        lines = [f"{number}. {' '.join(text.split())}" for number, text in enumerate(statements, start=1)]
        return "\n".join([f"Expected {wanted} queries, and {len(statements)} ran.", *lines])


@pytest.fixture
def events(request: pytest.FixtureRequest) -> Iterator[Events]:
    """Record what happens in this process from the start of the test; see `backstay.events`.

    What the app does while it starts is over by then.
    """
    for name in _STARTED_FIRST:
        if name in request.fixturenames:
            request.getfixturevalue(name)
    events = Events()
    with subscribed(events.record):
        yield events


@pytest.fixture(name="assert_queries")
def assert_queries_fixture() -> type[assert_queries]:
    """Return `assert_queries`, for tests that rather ask than import."""
    return assert_queries

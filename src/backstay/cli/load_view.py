"""How a load test goes, for a person at a terminal or for a log; on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from backstay.cli.load_figures import describe_progress
from backstay.cli.messages import say
from backstay.load.messages import Plan, Progress

__all__ = ["LoadView", "choose_view"]

_LINE_SECONDS = 5.0
"""How often a line of progress is written where nobody looks at a terminal."""


class LoadView(Protocol):
    """Shows how a run goes."""

    def show(self, progress: Progress) -> None:
        """Show how it stands."""

    def say(self, line: str) -> None:
        """Show a line that the locustfile wrote."""


@contextmanager
def choose_view(plan: Plan, *, quiet: bool) -> Iterator[LoadView]:
    """Yield a table that changes in place on a terminal, lines elsewhere, and next to nothing when quiet."""
    if plan.web_port is not None:
        say(f"Locust's page is at http://127.0.0.1:{plan.web_port}. Start the run there; Ctrl-C ends it.")
        yield _Silence()
    elif quiet:
        yield _Silence()
    elif sys.stderr.isatty():
        from backstay.cli.load_table import opening_table  # noqa: PLC0415  Rich costs more than the rest

        with opening_table(plan) as table:
            yield table
    else:
        yield _Lines()


class _Silence:
    def show(self, progress: Progress) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        say(line)


class _Lines:
    """A line every few seconds, for logs."""

    def __init__(self) -> None:
        self._next = _LINE_SECONDS

    def show(self, progress: Progress) -> None:
        if progress.elapsed_seconds >= self._next:
            self._next += _LINE_SECONDS
            say(f"{progress.elapsed_seconds:.0f} s: {describe_progress(progress)}")

    def say(self, line: str) -> None:
        say(line)

"""How far a long command is: a bar in a terminal, a log line every few seconds elsewhere."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["Countable", "showing_progress"]

_logger = logging.getLogger("backstay.cli")

_LINE_SECONDS = 5.0


class Countable(Protocol):
    """What knows how far it is."""

    @property
    def name(self) -> str:
        """What is under way."""
        ...

    @property
    def state(self) -> str:
        """`done` at the end."""
        ...

    @property
    def rows_done(self) -> int:
        """How many rows are done."""
        ...

    @property
    def rows_total(self) -> int:
        """How many there are in all."""
        ...


@contextmanager
def showing_progress() -> Iterator[Callable[[Countable], None]]:
    """Return what shows progress on standard error each time it is called; call it once at the start too."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with Progress(*_columns(), console=console) as progress:
        yield _Bar(progress)


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f} %"),
        _RowsColumn(),
        TimeRemainingColumn(),
    )


class _RowsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show the rows, and how many come in a second."""
        speed = task.finished_speed or task.speed
        told = f"{int(task.completed):,} of {int(task.total or 0):,} rows"
        return Text(f"{told}, {speed:,.0f} a second" if speed else told)


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, now: Countable) -> None:
        tasks = self._progress.task_ids
        if not tasks:
            # Begun where it is: rows of an earlier run are no speed of this one.
            self._progress.add_task(now.name, completed=now.rows_done, total=now.rows_total)
            return
        self._progress.update(tasks[0], completed=now.rows_done, total=now.rows_total)


class _Lines:
    def __init__(self) -> None:
        self._told_at: float | None = None
        self._began_at = monotonic()
        self._began_rows = 0

    def __call__(self, now: Countable) -> None:
        moment = monotonic()
        if self._told_at is None:
            self._began_at, self._began_rows = moment, now.rows_done
        elif moment - self._told_at < _LINE_SECONDS and now.state != "done":
            return
        self._told_at = moment
        share = now.rows_done / now.rows_total if now.rows_total else 1.0
        speed = (now.rows_done - self._began_rows) / max(moment - self._began_at, 1e-9)
        _logger.info(
            "%s: %.1f %%, %d of %d rows, %d a second",
            now.name,
            share * 100,
            now.rows_done,
            now.rows_total,
            speed,
        )

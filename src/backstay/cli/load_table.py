"""A run of a load test on a terminal: one table, which changes in place."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from backstay.cli.load_figures import describe_progress, format_errors, format_milliseconds
from backstay.load.messages import Plan, Progress, RouteFigures

__all__ = ["opening_table"]


@contextmanager
def opening_table(plan: Plan) -> Iterator["_Table"]:
    """Yield the table; at the end of the block it is gone, and the result takes its place."""
    console = Console(stderr=True)
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield _Table(plan, console, live)


class _Table:
    def __init__(self, plan: Plan, console: Console, live: Live) -> None:
        self._plan = plan
        self._console = console
        self._live = live

    def show(self, progress: Progress) -> None:
        """Show how it stands."""
        title = f"{progress.elapsed_seconds:.0f} of {self._plan.duration_seconds:g} s at {self._plan.target}"
        table = Table(
            title=f"{title}: {describe_progress(progress)}", title_justify="left", box=None, pad_edge=False
        )
        table.add_column("route", overflow="fold")
        for name in ("requests", "failed", "p50", "p95", "per second"):
            table.add_column(name, justify="right")
        for route in progress.routes:
            table.add_row(*_describe_route(route), style="red" if route.failures else None)
        self._live.update(table, refresh=True)

    def say(self, line: str) -> None:
        """Show a line that the locustfile wrote, above the table."""
        self._console.print(Text(line))


def _describe_route(figures: RouteFigures) -> tuple[Text | str, ...]:
    return (
        Text(figures.name),
        f"{figures.requests:,}",
        format_errors(figures),
        format_milliseconds(figures.p50_milliseconds),
        format_milliseconds(figures.p95_milliseconds),
        f"{figures.requests_per_second:.1f}",
    )

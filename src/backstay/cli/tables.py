"""Tables for a person at a terminal; what goes to a file or a pipe is plain."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["print_table"]

_WIDE = 110
"""Columns from which four of them can be read side by side."""


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table; one block per row where the terminal is narrow.

    Args:
        titles: One for each column.
        rows: The last cell says where the row came from; what is a default is dimmed.
    """
    console = Console()
    if console.width >= _WIDE:
        console.print(_make_table(titles, rows))
        return
    for name, value, *rest in rows:
        console.print(Text(f"{name} = {value}", style="bold"), Text(f"\n  {', '.join(rest)}"), sep="")


def _make_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row), style="dim" if row[-1] == "default" else None)
    return table

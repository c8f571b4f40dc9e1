"""Who may share a load of this process, and whose value may be used.

A flight is one load, from the lease to the fill, with everybody who waits for it. What it brings may be
older than somebody who joined late. Whoever was there before the flight began may use it; and whoever was
there before the store was asked for the last time, when that answer proved the value to be the committed one.
"""

from __future__ import annotations

__all__ = ["may_use"]


def may_use(*, arrived: int, began: int, proved: int | None) -> bool:
    """Return whether a passenger may take what a flight brought.

    All three are numbers of one count, such as of a process's reads and flights.

    Args:
        arrived: When the passenger's read began.
        began: When the flight began.
        proved: When the question was sent whose answer proved the value to be current; None without one.
    """
    return began > arrived or (proved is not None and proved > arrived)

"""What is done about a database that goes away for a moment, as when it is restarted.

A request that may run again waits for it, but not all requests for as long as they have: while a database
stays away, they would only pile up.
"""

from __future__ import annotations

import random
from time import monotonic
from typing import Final

__all__ = ["Outage"]

_LONGEST_WAIT_SECONDS: Final = 5.0
_OVER_AFTER_SECONDS: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.25


class Outage:
    """The latest time in which connections were lost, as this process saw it."""

    def __init__(self) -> None:
        self._began = self._seen = float("-inf")

    def note(self) -> None:
        """Note that a connection was lost or refused now."""
        now = monotonic()
        if now - self._seen > _OVER_AFTER_SECONDS:
            self._began = now
        self._seen = now

    def end(self) -> None:
        """Note that there are connections again: what is lost from now on is another outage."""
        self._seen = float("-inf")

    @property
    def is_short(self) -> bool:
        """Whether it may be over soon: it has not lasted for long yet."""
        return monotonic() - self._began < _LONGEST_WAIT_SECONDS

    def choose_pause(self, attempt: int) -> float:
        """Return after how many seconds to try again, the first time after attempt 1."""
        # Full jitter: those who were cut off together do not come back together.
        most = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt)
        return random.uniform(0, most)  # noqa: S311  no secret

"""Chance, the same in each run of the same test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from random import Random
from typing import TypeVar

import pytest

__all__ = ["Chance", "chance"]

T = TypeVar("T")

_ATTEMPTS = 1000


class Chance:
    """What one test draws from.

    Args:
        seed: The test's id.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.random = Random(seed)  # noqa: S311  data for tests, no secret
        self._used: defaultdict[Hashable, set[Hashable]] = defaultdict(set)

    def unused(self, place: Hashable, draw: Callable[[], T]) -> T | None:
        """Return a value that is new for `place` in this test; None when there seems to be none left."""
        for _ in range(_ATTEMPTS):
            value = draw()
            key = value if isinstance(value, Hashable) else repr(value)
            if key not in self._used[place]:
                self._used[place].add(key)
                return value
        return None


# A test and its fixtures run in several contexts of one process, one test at a time: no ContextVar would
# reach them all.
_present = Chance("")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin anew for each test."""
    global _present  # noqa: PLW0603
    _present = Chance(item.nodeid)


def chance() -> Chance:
    """Return what the present test draws from."""
    return _present

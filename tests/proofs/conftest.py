"""Each promise at two lengths: a short form in `make test`, the full one in `make prove`."""

import os
from typing import Protocol

import pytest


class Length(Protocol):
    """Chooses a number of repetitions."""

    def __call__(self, *, short: int, full: int) -> int: ...


@pytest.fixture
def length() -> Length:
    def choose(*, short: int, full: int) -> int:
        return full if os.environ.get("BACKSTAY_PROVE") == "1" else short

    return choose

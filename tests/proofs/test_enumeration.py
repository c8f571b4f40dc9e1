"""The time of a login does not tell whether there is such a user.

The short form counts the processor's time, which a busy machine does not lengthen much, and is content with a
tenth of the cost; the full one also looks at the clock on the wall, as whoever is outside does.
"""

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from backstay.security.passwords import Passwords
from backstay.settings import SecuritySettings

pytestmark = pytest.mark.proof

FULL = 500
GAP_MS = 0.5
SHORT_GAP_MS = 2.0
ROUNDS = 3
WRONG = "not the right battery staple"


async def measure(
    passwords: Passwords, stored: str | None, *, trials: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Return the medians in milliseconds: of a known user with a wrong password, and of an unknown one."""
    known: list[float] = []
    unknown: list[float] = []
    real = await passwords.hash("correct horse battery staple")
    for trial in range(trials):
        # Each goes first as often as the other.
        pairs = [(known, real), (unknown, stored)]
        for times, hash_ in pairs if trial % 2 else pairs[::-1]:
            begin = clock()
            check = await passwords.verify(WRONG, hash_)
            times.append((clock() - begin) * 1000)
            assert not check.is_right
    return median(known), median(unknown)


async def test_without_a_dummy_hash_an_unknown_user_is_told_by_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fault: what has no hash is answered at once."""
    async with Passwords(SecuritySettings()) as passwords:
        monkeypatch.setattr(passwords, "_dummy", "!")
        monkeypatch.setattr(passwords._hasher, "verify", lambda *_: False)
        known, unknown = await measure(passwords, None, trials=10, clock=time.process_time)

    assert known - unknown > 10 * GAP_MS


async def test_an_unknown_user_and_a_wrong_password_take_the_same_time(length: Any) -> None:
    trials = length(short=16, full=FULL)
    clocks = [time.process_time] if trials < FULL else [time.process_time, time.perf_counter]
    bound = SHORT_GAP_MS if trials < FULL else GAP_MS
    for clock in clocks:
        assert await _find_gap(trials, clock, bound) < bound


async def _find_gap(trials: int, clock: Callable[[], float], bound: float) -> float:
    """Return the smallest gap of some rounds: a real one is in each, that of another process is not."""
    gaps: list[float] = []
    while len(gaps) < ROUNDS and min(gaps, default=bound) >= bound:
        async with Passwords(SecuritySettings()) as passwords:
            known, unknown = await measure(passwords, None, trials=trials, clock=clock)
        gaps.append(abs(known - unknown))
        sys.stdout.write(f"{clock.__name__}: {known:.2f} ms known, {unknown:.2f} ms unknown\n")
    return min(gaps)

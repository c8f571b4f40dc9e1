"""The sweeper sees every connection in time, and never keeps the others waiting for long."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import cast

from backstay.server.sweeper import Sweeper

_PERIOD_SECONDS = 0.25


class Loop:
    """What the sweeper needs of an event loop, on a clock of its own: a busy machine changes nothing here."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.longest = 0.0
        """So many seconds took the longest call: everybody else waits for it."""
        self._due: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> None:
        self._due.append((self.now + delay, partial(callback, *args)))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        while self._due and (following := min(self._due, key=lambda due: due[0]))[0] <= until:
            self._due.remove(following)
            when, call = following
            began = self.now = max(self.now, when)
            call()
            self.longest = max(self.longest, self.now - began)
        self.now = max(self.now, until)

    @property
    def rests(self) -> bool:
        return not self._due


class Connection:
    """Notes when it was looked at."""

    def __init__(self, loop: Loop, *, costs_seconds: float) -> None:
        self.looks: list[float] = []
        self._loop = loop
        self._costs_seconds = costs_seconds

    def check(self, now: float) -> None:
        self.looks.append(now)
        self._loop.now += self._costs_seconds


class Watch:
    """A sweeper and the connections it looks at."""

    def __init__(self, count: int, *, costs_seconds: float = 0.0) -> None:
        self.loop = Loop()
        self.opened = [Connection(self.loop, costs_seconds=costs_seconds) for _ in range(count)]
        self.connections: set[object] = set(self.opened)
        self.sweeper = Sweeper(self.connections, clock=self.loop.time)
        self.begin()

    def begin(self) -> None:
        self.sweeper.begin(cast("AbstractEventLoop", self.loop))

    def run(self, periods: float) -> None:
        self.loop.run(periods * _PERIOD_SECONDS)


def test_each_connection_is_looked_at_in_every_period_and_they_are_spread_over_it() -> None:
    watch = Watch(160)
    watch.run(101)

    longest = max(later - look for one in watch.opened for look, later in pairwise(one.looks))
    assert longest <= 1.2 * _PERIOD_SECONDS
    assert len({one.looks[0] for one in watch.opened}) == 10  # times sixteen


def test_a_full_go_is_no_reason_to_come_later() -> None:
    watch = Watch(16)
    watch.run(10.5)

    assert {len(one.looks) for one in watch.opened} == {10}  # five at half the pace


def test_one_that_takes_long_gives_the_others_a_turn() -> None:
    watch = Watch(10, costs_seconds=0.003)
    watch.run(2)

    assert all(one.looks for one in watch.opened)
    assert watch.loop.longest < 2 * 0.003  # all ten would be one go


def test_one_that_has_left_meanwhile_is_not_looked_at_any_more() -> None:
    watch = Watch(160)
    watch.run(1)
    seen = [one for one in watch.opened if one.looks]
    left = next(one for one in watch.opened if not one.looks)
    watch.connections.remove(left)
    watch.run(0.99)

    assert len(seen) == 16
    assert [one for one in watch.opened if not one.looks] == [left]


def test_it_rests_without_connections_and_begins_again() -> None:
    watch = Watch(1)
    watch.run(1.5)
    watch.connections.clear()
    watch.run(1.5)
    assert watch.loop.rests
    seen = len(watch.opened[0].looks)

    watch.connections.update(watch.opened)
    watch.run(1.5)
    assert len(watch.opened[0].looks) == seen
    watch.begin()
    watch.run(1.5)
    assert len(watch.opened[0].looks) > seen

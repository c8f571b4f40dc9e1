"""The sweeper sees every connection in time, and never keeps the others waiting for long."""

import asyncio
from time import sleep

from backstay.server.sweeper import Sweeper

_PERIOD_SECONDS = 0.25


class Connection:
    """Notes when it was looked at."""

    def __init__(self, others: set[object], *, costs_seconds: float = 0.0) -> None:
        self.looks: list[float] = []
        self._others = others
        self._costs_seconds = costs_seconds

    def check(self, now: float) -> None:
        self.looks.append(now)
        sleep(self._costs_seconds)


def _open(count: int, *, costs_seconds: float = 0.0) -> tuple[set[object], list[Connection]]:
    connections: set[object] = set()
    opened = [Connection(connections, costs_seconds=costs_seconds) for _ in range(count)]
    connections.update(opened)
    return connections, opened


async def test_each_connection_is_looked_at_in_every_period_and_they_are_spread_over_it() -> None:
    connections, opened = _open(160)
    Sweeper(connections).begin(asyncio.get_running_loop())
    await asyncio.sleep(2.9 * _PERIOD_SECONDS)
    connections.clear()

    assert {len(connection.looks) for connection in opened} <= {1, 2}
    first = sorted({connection.looks[0] for connection in opened})
    assert len(first) == 10  # times sixteen


async def test_a_full_go_is_no_reason_to_come_later() -> None:
    connections, opened = _open(16)
    Sweeper(connections).begin(asyncio.get_running_loop())
    await asyncio.sleep(10.5 * _PERIOD_SECONDS)
    connections.clear()

    assert min(len(connection.looks) for connection in opened) >= 7  # of ten; five at half the pace


async def test_one_that_takes_long_gives_the_others_a_turn() -> None:
    connections, opened = _open(10, costs_seconds=0.003)
    Sweeper(connections).begin(asyncio.get_running_loop())
    longest, until = 0.0, asyncio.get_running_loop().time() + 2 * _PERIOD_SECONDS
    while (began := asyncio.get_running_loop().time()) < until:
        await asyncio.sleep(0.001)
        longest = max(longest, asyncio.get_running_loop().time() - began)
    connections.clear()

    assert all(connection.looks for connection in opened)
    assert longest < 10 * 0.003  # all of them in one go


class Last(Connection):
    """Ends all others."""

    def check(self, now: float) -> None:
        super().check(now)
        self._others.intersection_update({self})


async def test_one_that_has_left_meanwhile_is_not_looked_at_any_more() -> None:
    connections: set[object] = set()
    opened = [Last(connections) for _ in range(32)]
    connections.update(opened)
    Sweeper(connections).begin(asyncio.get_running_loop())
    await asyncio.sleep(2.5 * _PERIOD_SECONDS)
    connections.clear()

    assert sum(bool(connection.looks) for connection in opened) == 1


async def test_it_rests_without_connections_and_begins_again() -> None:
    connections, opened = _open(1)
    sweeper, loop = Sweeper(connections), asyncio.get_running_loop()
    sweeper.begin(loop)
    await asyncio.sleep(1.5 * _PERIOD_SECONDS)
    connections.clear()
    await asyncio.sleep(1.5 * _PERIOD_SECONDS)
    seen = len(opened[0].looks)

    connections.update(opened)
    await asyncio.sleep(1.5 * _PERIOD_SECONDS)
    assert len(opened[0].looks) == seen
    sweeper.begin(loop)
    await asyncio.sleep(1.5 * _PERIOD_SECONDS)
    connections.clear()
    assert len(opened[0].looks) > seen

"""The protocol in every order that can be thought of: what it promises, and why each piece is there."""

from itertools import count

import pytest

from backstay.cache import _protocol
from cache_explorer import (
    SCENARIOS,
    Actor,
    Scenario,
    World,
    exhaust,
    explore,
    explore_all_orders,
    explore_one,
    read_in_the_end,
    reader,
    writer,
)
from mutants import MUTANTS, WITHOUT_OUTBOX

RUNS = 100_000


@pytest.fixture(autouse=True)
def _counted_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run follows from its seed alone, and needs no entropy."""
    numbers = count()
    monkeypatch.setattr(_protocol, "token_hex", lambda length: f"{next(numbers):x}")


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_steps_makes_a_read_wrong(name: str) -> None:
    assert explore(SCENARIOS[name], range(RUNS)) is None


@pytest.mark.parametrize("name", MUTANTS)
def test_each_piece_is_needed(name: str) -> None:
    scenario, parts = MUTANTS[name]
    assert explore(scenario, range(RUNS), parts) is not None


@pytest.mark.parametrize("has_entry", [False, True])
@pytest.mark.parametrize("are_together", [False, True])
def test_every_order_of_two_readers_and_a_writer_is_right(*, has_entry: bool, are_together: bool) -> None:
    def make(world: World) -> list[Actor]:
        first, second = world.processes
        if has_entry:
            exhaust(reader(world, first))
        return [
            reader(world, first),
            reader(world, first if are_together else second),
            writer(world, first),
        ]

    runs, violation = explore_all_orders(make)
    assert runs > 1000
    assert violation is None


class TestAvailable:
    """Without an answer of the store a change is committed all the same, and its tags wait in the outbox."""

    SCENARIO = Scenario(fails=0.25, is_strict=False)

    def test_reads_are_wrong_only_while_the_outbox_holds_something_and_never_stay_so(self) -> None:
        excused = 0
        for seed in range(20_000):
            world = explore_one(self.SCENARIO, seed)
            assert world.violation is None
            assert read_in_the_end(world) == world.version, seed
            excused += world.excused
        assert excused  # or the scenario would not reach what it is about

    def test_without_the_outbox_they_stay_wrong(self) -> None:
        worlds = (explore_one(self.SCENARIO, seed, WITHOUT_OUTBOX) for seed in range(20_000))
        assert any(read_in_the_end(world) != world.version for world in worlds)

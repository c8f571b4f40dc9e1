"""Runs the protocol's own steps on a model of processes, a row and a store, in any order, with faults.

The row is a register that only grows, so a read is right when its value lies between the committed one at its
start and the committed one at its end. A run follows from its seed: `explore_one(scenario, seed)` repeats it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from backstay.cache._flights import may_use
from backstay.cache._memory import MemoryState
from backstay.cache._protocol import Address, Load, Loaded, Note, Pause, Read, fill, prepare, settle
from backstay.cache._store import EVERYTHING, StoreError
from backstay.errors import UnavailableError

TAGS = (EVERYTHING, "rows:1")
ADDRESS = Address("row:1", TAGS, 60_000)
WRITTEN = ("rows:1",)
INTENT_SECONDS = 15.0
COMMIT_SECONDS = INTENT_SECONDS / 3

Actor = Generator[Any, None, None]  # yields the flight that it waits for, or None


@dataclass(frozen=True)
class Scenario:
    """What may happen in a run."""

    rolls_back: float = 0.0
    """The share of transactions that roll back."""
    crashes: float = 0.0
    """The share of writing processes that die somewhere."""
    fails: float = 0.0
    """The share of operations that are lost, or whose answer is."""
    restarts: bool = False
    """The store starts again, from nothing or from an older snapshot."""
    is_strict: bool = True


SCENARIOS = {
    "plain": Scenario(),
    "rollback": Scenario(rolls_back=0.5),
    "crash": Scenario(crashes=0.5),
    "failing operations": Scenario(fails=0.25),
    "restored from a snapshot": Scenario(restarts=True),
    "all at once": Scenario(rolls_back=0.2, crashes=0.3, fails=0.15, restarts=True),
}


class Violation(NamedTuple):
    """A read that no moment of its life explains."""

    seed: int
    value: int
    oldest: int
    newest: int


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Parts:
    """What a mutant replaces; the originals are the library's."""

    state: type[MemoryState] = MemoryState
    prepare: Callable[..., Generator[Any, Any, None]] = prepare
    may_use: Callable[..., bool] = may_use
    loads_before_lease: bool = False
    has_outbox: bool = True


class Flight:
    """A load that others of the process may join."""

    def __init__(self, began: int) -> None:
        self.began = began
        self.asked = 0
        self.proved: int | None = None
        self.landed: Loaded | None = None
        self.has_landed = False


class Process:
    """A worker: whether it has greeted the store, and its flight."""

    def __init__(self) -> None:
        self.run: int | None = 0
        self.flight: Flight | None = None
        self.sees_outbox = False


@dataclass
class World:
    """One run."""

    seed: int
    scenario: Scenario
    parts: Parts = field(default_factory=Parts)
    may_wait: bool = True
    version: int = 0
    violation: Violation | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed).random
        self.clock = Clock()
        self.state = self.parts.state(max_bytes=1 << 20, clock=self.clock)
        self.state.run = "0"
        self.state.seed("first")
        self.server_run = 0
        self.moments = 0
        self.written = 0
        self.is_locked = False
        self.outbox: list[tuple[str, ...]] = []
        self.outbox_emptied = 0
        self.excused = 0
        self.delayed: list[Any] = []
        self.processes = (Process(), Process())

    def moment(self) -> int:
        self.moments += 1
        return self.moments

    def perform(self, process: Process, operation: Any) -> Any:
        """Perform an operation, or lose it."""
        if process.run != self.server_run:
            process.run = self.server_run
            self.state.hello(str(self.server_run), f"hello{self.moment()}")
        fails = self.scenario.fails
        if not fails or self.random() >= fails:
            return operation.on(self.state)
        self._lose(operation)
        raise StoreError("no answer")

    def _lose(self, operation: Any) -> None:
        chance = self.random()
        if chance < 0.4:
            operation.on(self.state)  # only the answer is lost
        elif chance < 0.6:
            self.delayed.append(operation)

    def check(self, value: int, oldest: int, arrived: int) -> None:
        if oldest <= value <= self.version:
            return
        if value < oldest and (self.outbox or self.outbox_emptied > arrived):
            self.excused += 1  # what the relay has not delivered yet is not promised
        elif self.violation is None:
            self.violation = Violation(self.seed, value, oldest, self.version)


def reader(world: World, process: Process) -> Actor:
    """Read once through the cache."""
    oldest, arrived = world.version, world.moment()
    early = world.version if world.parts.loads_before_lease else None
    if process.sees_outbox:
        yield
        world.check(world.version, oldest, arrived)
        return
    try:
        payload = world.perform(process, Read(ADDRESS.key, TAGS))
    except StoreError:
        payload = None
    if payload is not None:
        world.check(int(payload), oldest, arrived)
        return
    yield
    while (flight := process.flight) is not None:
        while not flight.has_landed:
            yield flight
        landed = flight.landed
        if landed is not None and world.parts.may_use(
            arrived=arrived, began=flight.began, proved=flight.proved
        ):
            world.check(landed.value, oldest, arrived)
            return
    flight = process.flight = Flight(world.moment())
    result = yield from _run(
        world, process, fill(ADDRESS, may_wait=world.may_wait), flight=flight, early=early
    )
    yield  # the last answer is on its way
    is_loaded = isinstance(result, Loaded)
    flight.landed = result if is_loaded else Loaded(int(result.payload), None, is_current=True)
    flight.proved = flight.asked if flight.landed.is_current else None
    flight.has_landed = True
    process.flight = None
    world.check(flight.landed.value, oldest, arrived)


def _run(
    world: World,
    process: Process,
    steps: Generator[Any, Any, Any],
    *,
    flight: Flight | None = None,
    early: int | None = None,
) -> Generator[Any, None, Any]:
    """Perform a generator's steps, one at a time."""
    step = next(steps, None)
    while step is not None:
        answer: Any = None
        error: StoreError | None = None
        kind = type(step)
        if kind is Load:
            value = world.version if early is None else early
            answer = Loaded(value, b"%d" % value)
        elif kind is not Pause:
            if flight is not None:
                flight.asked = world.moment()
            try:
                answer = world.perform(process, step)
            except StoreError as lost:
                error = lost
        try:
            step = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value
        yield


def writer(world: World, process: Process) -> Actor:
    """Change the row, and commit or roll back."""
    while world.is_locked:
        yield
    world.is_locked = True
    world.written += 1
    version, name = world.written, f"t{world.moment()}"
    noted: list[tuple[str, ...]] = []
    announced = world.clock.now
    try:
        yield
        try:
            for step in _announced(world, process, name):
                if type(step) is Note:
                    noted.append(WRITTEN)
                yield
        except UnavailableError:
            is_refused = True
        else:
            is_refused = world.clock.now > announced + COMMIT_SECONDS
        has_committed = not is_refused and world.random() >= world.scenario.rolls_back
        if has_committed:
            world.version = version
            world.outbox += noted if world.parts.has_outbox else ()
    finally:
        world.is_locked = False  # a dead process holds no lock
    yield
    yield from _run(world, process, settle(WRITTEN, name, has_committed=has_committed))


def _announced(world: World, process: Process, name: str) -> Iterator[Any]:
    steps = world.parts.prepare(WRITTEN, name, is_strict=world.scenario.is_strict)
    error: StoreError | None = None
    while True:
        try:
            step = next(steps) if error is None else steps.throw(error)
        except StopIteration:
            return
        error = None
        if type(step) is not Note:
            try:
                world.perform(process, step)
            except StoreError as lost:
                error = lost
        yield step


def restarting(world: World) -> Actor:
    """Start the store again, from nothing or from what it was before."""
    yield
    snapshot = _photograph(world.state)
    while world.random() < 0.7:
        yield
    if world.random() < 0.3:
        snapshot = ({}, {}, {}, None)
    tags, entries, leases, run = snapshot
    world.state.tags, world.state.leases, world.state.run = dict(tags), dict(leases), run
    world.state.entries = copy(entries) if entries else type(world.state.entries)()
    world.server_run += 1


def _photograph(state: MemoryState) -> tuple[dict[str, Any], Any, dict[str, Any], str | None]:
    return dict(state.tags), copy(state.entries), dict(state.leases), state.run


def passing_time(world: World) -> Actor:
    """Let seconds pass now and then."""
    for _ in range(3):
        world.clock.now += world.random() * 10
        yield


def delivering(world: World) -> Actor:
    """Do late what was thought lost, and forget what the outbox holds."""
    for _ in range(4):
        yield
        if world.delayed and world.random() < 0.5:
            world.delayed.pop().on(world.state)


def relay(world: World) -> Actor:
    """Empty the outbox, as every worker does once a second."""
    for _ in range(4):
        yield
        deliver_outbox(world)


def deliver_outbox(world: World) -> None:
    for process in world.processes:
        process.sees_outbox = bool(world.outbox)
    while world.outbox:
        world.state.forget(world.outbox.pop(), token=f"relay{world.moment()}")
        world.outbox_emptied = world.moment()


def read_in_the_end(world: World) -> int:
    """Return what a read brings once everything is delivered and every intent is over."""
    while world.delayed:
        world.delayed.pop().on(world.state)
    deliver_outbox(world)
    world.clock.now += INTENT_SECONDS + 1
    for process in world.processes:
        process.sees_outbox = False
    payload = world.state.read(ADDRESS.key, TAGS)
    return world.version if payload is None else int(payload)


def build(world: World) -> list[Actor]:
    """Return the actors of a run: three readers, two writers, and what goes wrong."""
    scenario, (first, second) = world.scenario, world.processes
    actors = [reader(world, first), reader(world, first), reader(world, second)]
    actors += [writer(world, first), writer(world, second)]
    if scenario.crashes or scenario.restarts:
        actors.append(passing_time(world))
    if scenario.restarts:
        actors.append(restarting(world))
    if scenario.fails:
        actors.append(delivering(world))
    if not scenario.is_strict:
        actors.append(relay(world))
    return actors


def explore_one(scenario: Scenario, seed: int, parts: Parts | None = None) -> World:
    """Run one schedule to its end and return the world as it is then."""
    world = World(seed, scenario, parts or _ORIGINAL)
    draw = world.random
    if draw() < 0.5:  # half of the runs begin with a value in the store
        exhaust(reader(world, world.processes[0]))
    actors = build(world)
    doomed = actors[3] if draw() < scenario.crashes else None
    lifetime = int(draw() * 10)
    while actors:
        index = int(draw() * len(actors))
        actor = actors[index]
        if actor is doomed:
            if not lifetime:
                actor.close()
                doomed = None
                del actors[index]
                continue
            lifetime -= 1
        try:
            next(actor)
        except StopIteration:
            del actors[index]
    return world


_ORIGINAL = Parts()


def exhaust(actor: Actor) -> None:
    """Run an actor alone, to its end."""
    for _ in actor:
        pass


def explore(scenario: Scenario, seeds: range, parts: Parts | None = None) -> Violation | None:
    """Run one schedule for each seed; return the first violation."""
    for seed in seeds:
        violation = explore_one(scenario, seed, parts).violation
        if violation is not None:
            return violation
    return None


def explore_all_orders(make: Callable[[World], list[Actor]]) -> tuple[int, Violation | None]:
    """Run every order of the actors' steps; return how many there are, and the first violation."""
    choices: list[tuple[int, int]] = []  # taken, of how many
    runs = 0
    while True:
        world = _follow(make, choices)
        runs += 1
        if world.violation is not None:
            return runs, world.violation
        while choices and choices[-1][0] + 1 == choices[-1][1]:
            choices.pop()
        if not choices:
            return runs, None
        taken, width = choices[-1]
        choices[-1] = (taken + 1, width)


def _follow(make: Callable[[World], list[Actor]], choices: list[tuple[int, int]]) -> World:
    world = World(0, Scenario(), may_wait=False)
    actors: list[tuple[Actor, Flight | None]] = [(actor, None) for actor in make(world)]
    depth = 0
    while actors:
        ready = [index for index, (_, flight) in enumerate(actors) if flight is None or flight.has_landed]
        if depth == len(choices):
            choices.append((0, len(ready)))
        index = ready[choices[depth][0]]
        depth += 1
        actor = actors[index][0]
        try:
            actors[index] = (actor, next(actor))
        except StopIteration:
            del actors[index]
    return world

"""One effect and one answer per idempotency key, also when workers are killed: real processes, databases."""

import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import MetaData, select

from backstay.db import Database

from .charging_worker import CALLERS, POINTS, charges, tables

pytestmark = [pytest.mark.proof, pytest.mark.databases("sqlite", "postgresql")]

WORKER = Path(__file__).with_name("charging_worker.py")
AT_ONCE = 4
CALLS_PER_KEY = 50
KEYS_PER_WAVE = 20
FULL = 200
DEADLINE_SECONDS = 300


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


@dataclass
class Outcome:
    """What all workers of a run said, and how some of them died."""

    bodies: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[int] = field(default_factory=Counter)
    replayed: int = 0
    started: int = 0
    deaths: Counter[str] = field(default_factory=Counter)

    @property
    def killed(self) -> int:
        return self.deaths.total()

    def take(self, line: str) -> str:
        """Count an answer and return its key."""
        key, status, body, is_replayed = json.loads(line)
        self.statuses[status] += 1
        self.replayed += is_replayed
        self.bodies[key].append(body)
        return str(key)


class Run:
    """Sends each key many times to several workers at once; what a killed one left, another one takes."""

    def __init__(self, url: str, *, keys: int, marked: str = "marked", with_kills: bool = True) -> None:
        self._command = [sys.executable, str(WORKER), url, marked]
        self._keys = [f"key-{number}" for number in range(keys)]
        self._with_kills = with_kills
        self._random = random.Random(4711)
        self._lock = threading.Lock()
        self.outcome = Outcome()

    def __call__(self) -> Outcome:
        """Run it."""
        for first in range(0, len(self._keys), KEYS_PER_WAVE):
            self._send(self._keys[first : first + KEYS_PER_WAVE])
        return self.outcome

    def _send(self, keys: Sequence[str]) -> None:
        # Duplicates stand close together and go to different workers, so that they meet.
        calls = [key for key in keys for _ in range(CALLS_PER_KEY)]
        start = threading.Barrier(AT_ONCE)
        deaths = (*POINTS, "at random") if self._with_kills else ("never",) * AT_ONCE
        threads = [
            threading.Thread(target=self._serve, args=(calls[slot::AT_ONCE], death, start))
            for slot, death in enumerate(deaths)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self, calls: list[str], death: str, start: threading.Barrier) -> None:
        left = self._work(calls, death, start)
        while left:  # whoever got no answer asks again
            left = self._work(left, "never", threading.Barrier(1))

    def _work(self, calls: list[str], death: str, start: threading.Barrier) -> list[str]:
        """Let a process work, and return the calls that it did not answer."""
        with subprocess.Popen(
            [*self._command, death], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            guard = threading.Timer(DEADLINE_SECONDS, process.kill)
            guard.start()
            left = Counter(calls)
            answers = self._random.randrange(1, len(calls)) if death == "at random" else 0
            for number, key in enumerate(self._answers(process, calls, start), 1):
                left[key] -= 1
                if number == answers:
                    process.kill()
            guard.cancel()
        with self._lock:
            self.outcome.started += 1
            self.outcome.deaths[death] += process.returncode == -signal.SIGKILL
        return list(left.elements())

    def _answers(
        self, process: subprocess.Popen[str], calls: list[str], start: threading.Barrier
    ) -> Iterator[str]:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        start.wait(DEADLINE_SECONDS)
        process.stdin.write(json.dumps(calls) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.endswith("\n"):  # else it was killed in the middle of it
                with self._lock:
                    key = self.outcome.take(line)
                yield key


async def effects(database: Database) -> dict[str, list[str]]:
    """Return the ids of the charges of each key."""
    found = defaultdict(list)
    async with database.reading() as session:
        for key, charge in await session.execute(select(charges.c.key, charges.c.id)):
            found[key].append(charge)
    return found


async def test_without_the_marker_the_same_calls_have_as_many_effects_as_answers(
    database_url: str, database: Database
) -> None:
    """The fault, and the proof that these calls would show it."""
    outcome = Run(database_url, keys=4, marked="unmarked", with_kills=False)()

    assert outcome.statuses == {201: 4 * CALLS_PER_KEY}
    assert {len(charged) for charged in (await effects(database)).values()} == {CALLS_PER_KEY}
    assert {len(set(bodies)) for bodies in outcome.bodies.values()} == {CALLS_PER_KEY}


async def test_each_key_has_one_effect_and_one_answer_though_workers_are_killed(
    database_url: str, database: Database, length: Any
) -> None:
    keys = length(short=20, full=FULL)

    outcome = Run(database_url, keys=keys)()

    charged = await effects(database)
    assert outcome.killed >= 0.1 * outcome.started
    assert keys < FULL or outcome.deaths.keys() >= {*POINTS, "at random"}
    assert outcome.statuses == {201: keys * CALLS_PER_KEY}
    assert {len(ids) for ids in charged.values()} == {1}
    assert len(charged) == keys
    told = {key: {UUID(body.strip('"')).hex for body in bodies} for key, bodies in outcome.bodies.items()}
    assert told == {key: set(ids) for key, ids in charged.items()}
    # Each call but the first of its key; where that one's answer died with its worker, each call.
    assert 0 <= outcome.replayed - keys * (CALLS_PER_KEY - 1) <= outcome.killed * CALLERS

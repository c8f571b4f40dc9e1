"""Keys rotate under load, and no token that is good fails to verify.

Each thread is a machine: its own view of the file, its own clock a few seconds off. One is another service,
which knows the published set only and reads it anew every five minutes. Time is the test's, and goes on by a
minute when each of them has worked since: so the proof runs thousands of minutes, on a slow machine too.
"""

import asyncio
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backstay.errors import InvalidTokenError
from backstay.json import dumps
from backstay.security.key_file import KeyFile, read_key_ring, read_public_keys, write_key_ring
from backstay.security.keys import JWKS_MAX_AGE, KeyRing, PublicKey, generate_key, rotate
from backstay.security.tokens import AccessTokens, ForeignTokens
from backstay.settings import SecuritySettings

from .conftest import Length

pytestmark = pytest.mark.proof

SETTINGS = SecuritySettings()
ISSUER = "https://shop.example"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BETWEEN_ROTATIONS = 17  # minutes: shorter than the overlap, so that several keys wait at once
SKEWS = (-4, 0, 4)  # seconds
TOKENS_AT_ONCE = 4
WAIT_SECONDS = 120

Rotate = Callable[[KeyRing, datetime], KeyRing]


@dataclass
class World:
    """What the machines share: the file, the time, the tokens that are about."""

    path: Path
    now: datetime = BEGIN
    tokens: deque[tuple[str, datetime]] = field(default_factory=lambda: deque(maxlen=500))
    failures: Counter[str] = field(default_factory=Counter)
    verified: Counter[str] = field(default_factory=Counter)
    is_over: threading.Event = field(default_factory=threading.Event)


class Machine(threading.Thread):
    """A process of the service: it issues tokens, and verifies those of all."""

    def __init__(self, world: World, *, skew: int) -> None:
        super().__init__(name=f"machine {skew:+}")
        self._world = world
        self._skew = timedelta(seconds=skew)
        self._random = random.Random(skew)
        self.turns = 0
        self.error: BaseException | None = None
        file = KeyFile(world.path, clock=lambda: self.now().timestamp())
        self._tokens = AccessTokens(SETTINGS, file.ring, issuer=ISSUER, audience=ISSUER)

    def now(self) -> datetime:
        """The time, as this machine has it."""
        return self._world.now + self._skew

    def run(self) -> None:
        try:
            while not self._world.is_over.is_set():
                self._work()
                self.turns += 1
        except BaseException as error:
            self.error = error
            raise

    def _work(self) -> None:
        now = self.now()
        issued = self._tokens.issue("7", client_id="web", now=now)
        self._world.tokens.append(
            (issued.token.get_secret_value(), now + timedelta(seconds=issued.expires_in))
        )
        self._verify_some()

    def _verify_some(self) -> None:
        for token, expires_at in self._choose():
            now = self.now()  # not before the token was made
            if expires_at > now:
                self._count(token, now)

    def _choose(self) -> list[tuple[str, datetime]]:
        about = list(self._world.tokens)
        return self._random.sample(about, min(TOKENS_AT_ONCE, len(about)))

    def _count(self, token: str, now: datetime) -> None:
        try:
            self._verify(token, now)
        except InvalidTokenError as error:
            self._world.failures[f"{self.name}: {error.reason}"] += 1
        else:
            self._world.verified[self.name] += 1

    def _verify(self, token: str, now: datetime) -> None:
        self._tokens.verify(token, now=now)


class Neighbour(Machine):
    """Another service, which keeps the published set for as long as it may."""

    def __init__(self, world: World) -> None:
        super().__init__(world, skew=0)
        self.name = "neighbour"
        self._read_at: datetime | None = None
        self._keys: dict[str, PublicKey] = {}
        self._foreign = ForeignTokens(SETTINGS, self, issuer=ISSUER, audience=ISSUER)

    async def keys(self, issuer: str) -> Mapping[str, PublicKey]:
        """Return the set that it has."""
        now = self.now()
        if self._read_at is None or now - self._read_at >= JWKS_MAX_AGE:
            published = read_key_ring(self._world.path.read_bytes()).public_set(now)
            self._keys, self._read_at = read_public_keys(dumps(published)), now
        return self._keys

    def _work(self) -> None:
        self._verify_some()

    def _verify(self, token: str, now: datetime) -> None:
        asyncio.run(self._verify_foreign(token, now))

    async def _verify_foreign(self, token: str, now: datetime) -> None:
        await self._foreign.verify(token, now=now)


def run(path: Path, *, rotations: int, rotate: Rotate) -> tuple[World, set[str]]:
    """Rotate many times while the machines work; return what they saw, and all keys that there were."""
    write_key_ring(KeyRing((generate_key("EdDSA", signs_from=BEGIN - MINUTE),)), path)
    world, seen = World(path), set[str]()
    machines = [*(Machine(world, skew=skew) for skew in SKEWS), Neighbour(world)]
    for machine in machines:
        machine.start()
    try:
        for minute in range(rotations * BETWEEN_ROTATIONS):
            if minute % BETWEEN_ROTATIONS == 0:
                ring = rotate(read_key_ring(path.read_bytes()), world.now)
                seen |= {key.key_id for key in ring.keys}
                write_key_ring(ring, path)
            world.now += MINUTE
            _wait_for_a_turn(machines)
    finally:
        world.is_over.set()
        for machine in machines:
            machine.join(WAIT_SECONDS)
    assert [machine.error for machine in machines if machine.error is not None] == []
    return world, seen


def _wait_for_a_turn(machines: list[Machine]) -> None:
    """Let each machine work once with the time as it is: the turn that is going on may be older."""
    pause = threading.Event()
    for machine in machines:
        before, waited = machine.turns, 0.0
        while machine.turns < before + 2 and machine.is_alive():
            pause.wait(0.0005)
            waited += 0.0005
            assert waited < WAIT_SECONDS


def replace_key(ring: KeyRing, now: datetime) -> KeyRing:
    """Rotate as one would without a plan: the new key signs at once, the old one is gone."""
    return KeyRing((generate_key("EdDSA", signs_from=now),))


def rotate_as_we_do(ring: KeyRing, now: datetime) -> KeyRing:
    return rotate(ring, now=now)


def test_keys_that_are_just_replaced_void_good_tokens(tmp_path: Path) -> None:
    """The fault, and the proof that this load would show it."""
    world, _ = run(tmp_path / "keys.json", rotations=2, rotate=replace_key)

    reasons = {failure.partition(": ")[2] for failure in world.failures}
    assert reasons == {"unknown_key"}
    assert {failure.partition(": ")[0] for failure in world.failures} >= {"neighbour", "machine +0"}


def test_no_good_token_fails_while_keys_rotate(tmp_path: Path, length: Length) -> None:
    rotations = length(short=6, full=100)

    world, seen = run(tmp_path / "keys.json", rotations=rotations, rotate=rotate_as_we_do)

    assert world.failures == {}
    assert len(seen) == rotations + 1
    assert all(count > rotations * BETWEEN_ROTATIONS for count in world.verified.values())
    assert world.verified.keys() == {"machine -4", "machine +0", "machine +4", "neighbour"}

"""The state machine in memory: that it stays within its bounds, and forgets nothing that it needs."""

import pytest

from backstay.cache._memory import MemoryState, MemoryStore
from backstay.cache._store import BUSY, EVERYTHING, Bypass, Hit, Miss
from cache_explorer import Clock

HOUR_MS = 3_600_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> MemoryState:
    state = MemoryState(max_bytes=100_000, clock=clock)
    state.seed("first")
    return state


def store(state: MemoryState, key: str, *, payload: bytes = b"1", lifetime_ms: int = HOUR_MS) -> bool:
    tags = (EVERYTHING, key)
    lease = state.lease(key, tags, token=f"token-{key}", lifetime_ms=lifetime_ms)
    assert isinstance(lease, Miss)
    return state.fill(
        key,
        tags,
        vector=lease.vector,
        payload=payload,
        token=f"token-{key}",
        lifetime_ms=lifetime_ms,
    )


def read(state: MemoryState, key: str) -> bytes | None:
    return state.read(key, (EVERYTHING, key))


def test_what_was_not_read_for_longest_goes_first(state: MemoryState) -> None:
    for key in ("a", "b", "c"):
        assert store(state, key, payload=b"x" * 20_000)
    assert read(state, "a")
    assert store(state, "d", payload=b"x" * 20_000)
    assert read(state, "b") is None
    assert read(state, "a")


def test_entries_and_tags_together_stay_within_the_bytes(state: MemoryState) -> None:
    for number in range(3000):
        store(state, f"key-{number}", payload=b"x" * 100)
    assert state.entry_bytes + state.tag_bytes <= 100_000
    assert len(state.tags) < 200
    assert EVERYTHING in state.tags


def test_a_tag_with_an_intent_is_not_evicted(state: MemoryState) -> None:
    state.intend(("mine",), transaction="t", lifetime_ms=15_000)
    for number in range(1000):
        store(state, f"key-{number}")
    assert "mine" in state.tags


def test_an_evicted_tag_comes_back_with_another_generation(state: MemoryState) -> None:
    store(state, "a")
    del state.tags["a"]
    assert isinstance(state.lease("a", (EVERYTHING, "a"), token="new", lifetime_ms=HOUR_MS), Miss)
    assert read(state, "a") is None


def test_an_entry_ends_with_its_lifetime(state: MemoryState, clock: Clock) -> None:
    store(state, "a", lifetime_ms=1500)
    clock.now += 1.4
    assert read(state, "a") == b"1"
    clock.now += 0.2
    assert read(state, "a") is None
    assert state.entry_bytes == 0


def test_a_lease_is_given_once_and_again_when_its_holder_is_silent(state: MemoryState, clock: Clock) -> None:
    tags = (EVERYTHING, "a")
    assert isinstance(state.lease("a", tags, token="one", lifetime_ms=HOUR_MS), Miss)
    assert state.lease("a", tags, token="two", lifetime_ms=HOUR_MS) is BUSY
    clock.now += 3.1
    assert isinstance(state.lease("a", tags, token="two", lifetime_ms=HOUR_MS), Miss)


def test_leases_of_loads_that_were_cut_off_do_not_pile_up(state: MemoryState, clock: Clock) -> None:
    for number in range(10_000):
        clock.now += 0.01
        state.lease(f"{number}", (EVERYTHING,), token="t", lifetime_ms=HOUR_MS)
    assert len(state.leases) < 5000


def test_an_intent_that_is_over_counts_as_a_commit(state: MemoryState, clock: Clock) -> None:
    store(state, "a")
    state.intend(("a",), transaction="t", lifetime_ms=15_000)
    assert state.lease("a", (EVERYTHING, "a"), token="x", lifetime_ms=HOUR_MS) == Bypass("intent")
    clock.now += 15.1
    assert isinstance(state.lease("a", (EVERYTHING, "a"), token="x", lifetime_ms=HOUR_MS), Miss)


def test_a_rollback_keeps_the_entry(state: MemoryState) -> None:
    store(state, "a")
    state.intend(("a",), transaction="t", lifetime_ms=15_000)
    assert read(state, "a") is None
    state.abort(("a",), transaction="t", token="x")
    assert read(state, "a") == b"1"


def test_clearing_forgets_values_and_keeps_intents(state: MemoryState) -> None:
    store(state, "a")
    state.intend(("a",), transaction="t", lifetime_ms=15_000)
    state.clear("new")
    state.abort(("a",), transaction="t", token="x")
    assert read(state, "a") is None


def test_a_confirmation_that_is_repeated_later_would_bring_old_values_back(state: MemoryState) -> None:
    """Why a confirmation without an answer is not sent again: its intent ends by itself."""
    state.confirm(("a",), transaction="one", token="first")
    store(state, "a", payload=b"old")
    state.intend(("a",), transaction="two", lifetime_ms=15_000)
    state.confirm(("a",), transaction="two", token="second")
    assert read(state, "a") is None

    state.confirm(("a",), transaction="one", token="first")
    assert read(state, "a") == b"old"


async def test_an_announcement_lasts_as_long_as_its_commit() -> None:
    store = MemoryStore(max_bytes=100_000)
    clock = Clock()
    store.state._clock = clock
    await store.intend(("a",), transaction="t", lifetime_ms=15_000)
    clock.now += 3000
    lease = await store.lease("a", (EVERYTHING, "a"), token="u", lifetime_ms=HOUR_MS)
    assert lease == Bypass("intent")


async def test_the_store_is_ready_at_once() -> None:
    store = MemoryStore(max_bytes=100_000)
    lease = await store.lease("a", (EVERYTHING, "a"), token="t", lifetime_ms=HOUR_MS)
    assert isinstance(lease, Miss)
    assert await store.fill(
        "a", (EVERYTHING, "a"), vector=lease.vector, payload=b"1", token="t", lifetime_ms=HOUR_MS
    )
    assert await store.lease("a", (EVERYTHING, "a"), token="u", lifetime_ms=HOUR_MS) == Hit(b"1")
    await store.release("a", token="u")
    await store.close()

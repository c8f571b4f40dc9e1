from datetime import timedelta

import pytest

from backstay.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(pause=timedelta(seconds=1), clock=clock)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        assert breaker.admits()
        breaker.fail()


def succeed(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        assert breaker.admits()
        breaker.succeed()


def test_five_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, 4)
    assert breaker.is_closed
    fail(breaker)
    assert not breaker.admits()


def test_an_answer_between_them_begins_a_new_count(breaker: Breaker) -> None:
    fail(breaker, 4)
    succeed(breaker)
    fail(breaker, 4)
    assert breaker.is_closed


def test_half_of_the_last_twenty_failed_opens_it(breaker: Breaker) -> None:
    for _ in range(9):
        succeed(breaker)
        fail(breaker)
    succeed(breaker)
    assert breaker.is_closed
    fail(breaker)
    assert not breaker.admits()


def test_after_the_pause_one_caller_tries_alone_and_its_answer_closes_it(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 5)
    clock.now += 1.3  # the pause and its jitter
    assert breaker.admits()
    assert not breaker.admits()
    breaker.succeed()
    assert breaker.admits()
    assert breaker.is_closed


def test_a_try_that_fails_opens_it_for_another_pause(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now += 1.3
    fail(breaker)
    assert not breaker.admits()
    clock.now += 1.3
    assert breaker.admits()


def test_a_try_that_was_cut_off_leaves_its_place_to_the_next(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now += 1.3
    assert breaker.admits()
    breaker.abandon()
    assert breaker.admits()


def test_the_pause_varies_by_a_fifth(clock: Clock) -> None:
    pauses = set()
    for _ in range(50):
        breaker = Breaker(clock=clock)
        fail(breaker, 5)
        pauses.add(breaker._reopens_at)
    spread = {round(pause - clock.now, 6) for pause in pauses if pause is not None}
    assert len(spread) > 25
    assert all(0.8 <= pause <= 1.2 for pause in spread)


def test_answers_to_what_was_asked_before_it_opened_do_not_close_it(breaker: Breaker) -> None:
    assert breaker.admits()
    fail(breaker, 5)
    breaker.succeed()
    breaker.fail()
    assert not breaker.admits()

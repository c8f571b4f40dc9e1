from datetime import timedelta

import pytest

from backstay.deadline import check_deadline, deadline, seconds_left
from backstay.errors import DeadlineExceededError


def test_without_a_deadline_only_the_own_limit_counts() -> None:
    assert seconds_left() is None
    assert seconds_left(at_most=3.0) == 3.0
    check_deadline()


def test_the_smaller_of_deadline_and_limit_counts() -> None:
    with deadline(timedelta(seconds=60)):
        left = seconds_left()
        assert left is not None
        assert 59 < left <= 60
        assert seconds_left(at_most=3.0) == 3.0


def test_an_inner_deadline_cannot_extend_an_outer_one() -> None:
    with deadline(timedelta(seconds=1)), deadline(timedelta(seconds=60)):
        left = seconds_left()
        assert left is not None
        assert left <= 1


def test_an_outer_deadline_returns_after_an_inner_one() -> None:
    with deadline(timedelta(seconds=60)):
        with deadline(timedelta(0)):
            assert seconds_left() == 0.0
        check_deadline()


def test_a_passed_deadline_raises() -> None:
    with deadline(timedelta(0)), pytest.raises(DeadlineExceededError):
        check_deadline()

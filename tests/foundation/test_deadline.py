import asyncio
import time
from contextvars import ContextVar
from datetime import timedelta

import pytest

from backstay.deadline import (
    Call,
    check_deadline,
    current_call,
    deadline,
    detached_context,
    enter_call,
    leave_call,
    seconds_left,
    without_deadline,
)
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


class TestCalls:
    def test_a_call_has_an_end_that_its_blocks_can_only_bring_nearer(self) -> None:
        token = enter_call(Call(time.monotonic() + 10))
        with deadline(timedelta(seconds=60)):
            assert 9 < (seconds_left() or 0) <= 10
        with deadline(timedelta(seconds=1)):
            assert 0 < (seconds_left() or 0) <= 1
        leave_call(token)

        assert seconds_left() is None

    def test_a_call_without_a_deadline_leaves_the_own_limit(self) -> None:
        call = Call()
        token = enter_call(call)
        assert current_call() is call
        assert seconds_left() is None
        assert seconds_left(at_most=3.0) == 3.0
        leave_call(token)

        assert current_call() is None

    async def test_a_lifted_deadline_is_lifted_for_all_tasks_of_the_call(self) -> None:
        call = Call(time.monotonic())
        token = enter_call(call)
        is_lifted = asyncio.Event()

        async def look() -> tuple[float | None, float | None]:
            before = seconds_left()
            await is_lifted.wait()
            return before, seconds_left()

        task = asyncio.create_task(look())
        await asyncio.sleep(0)
        call.lift_deadline()
        is_lifted.set()

        assert await task == (0.0, None)
        leave_call(token)

    def test_a_block_without_deadline_is_part_of_no_call(self) -> None:
        token = enter_call(Call(time.monotonic()))
        with deadline(timedelta(0)):
            with without_deadline():
                assert (seconds_left(), current_call()) == (None, None)
            assert seconds_left() == 0.0
        leave_call(token)

    def test_a_detached_context_is_no_part_of_a_call_and_has_all_else(self) -> None:
        other: ContextVar[str] = ContextVar("other")
        other.set("kept")
        token = enter_call(Call(time.monotonic()))
        with deadline(timedelta(0)):
            context = detached_context()
        leave_call(token)

        assert context.run(seconds_left) is None
        assert context.run(current_call) is None
        assert context[other] == "kept"

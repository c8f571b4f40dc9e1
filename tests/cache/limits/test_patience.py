"""Who is late itself does not blame the other."""

import asyncio
import time

import pytest

from backstay.cache._patience import Patience

SECONDS = 0.05


async def _answer_after(turns: int) -> str:
    for _ in range(turns):
        await asyncio.sleep(0)
    return "answer"


async def _block(turns: int) -> None:
    for _ in range(turns):
        time.sleep(SECONDS)  # noqa: ASYNC251  what is tested: a loop that is busy with others
        await asyncio.sleep(0)


async def test_an_answer_that_came_while_the_loop_was_busy_is_taken() -> None:
    busy = asyncio.create_task(_block(5))
    async with Patience(SECONDS):
        assert await _answer_after(4) == "answer"
    await busy


async def test_a_plain_timeout_loses_that_answer() -> None:
    """The fault."""
    busy = asyncio.create_task(_block(5))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SECONDS):
            await _answer_after(4)
    await busy


async def test_who_does_not_answer_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        async with Patience(SECONDS):
            await asyncio.Event().wait()


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def wait() -> None:
        async with Patience(60):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

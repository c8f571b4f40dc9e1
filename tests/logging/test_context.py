from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING

import pytest

from backstay.logging import bind_context, bound_context, captured_logs, clear_context, get_logger

if TYPE_CHECKING:
    from tests.logging.conftest import Lines

logger = get_logger("shop")


def test_bound_values_are_in_every_line_before_those_of_the_call(lines: Lines) -> None:
    bind_context(request_id="8f2c")
    bind_context(route="/orders/{id}")

    logger.info("order accepted", order_id=7)

    assert list(lines.read_event()) == [
        "timestamp",
        "level",
        "logger",
        "event",
        "request_id",
        "route",
        "order_id",
    ]


def test_what_a_block_binds_ends_with_it() -> None:
    with captured_logs() as events:
        with bound_context(request_id="outer"):
            with bound_context(request_id="inner"):
                bind_context(principal="user:7")
                logger.info("inside")
            logger.info("between")
        logger.info("after")

    inside, between, after = events
    assert (inside["request_id"], inside["principal"]) == ("inner", "user:7")
    assert between["request_id"] == "outer"
    assert "principal" not in between
    assert "request_id" not in after


def test_what_a_block_binds_ends_with_its_exception() -> None:
    with pytest.raises(RuntimeError), bound_context(request_id="8f2c"):
        raise RuntimeError

    with captured_logs() as events:
        logger.info("after")

    assert "request_id" not in events[0]


def test_a_cleared_context_is_empty() -> None:
    bind_context(request_id="8f2c")
    clear_context()

    with captured_logs() as events:
        logger.info("after")

    assert "request_id" not in events[0]


def test_a_call_overrides_the_context() -> None:
    with captured_logs() as events, bound_context(order_id=1):
        logger.info("order accepted", order_id=2)

    assert events[0]["order_id"] == 2


async def test_two_concurrent_tasks_do_not_mix_their_context() -> None:
    both_bound = asyncio.Barrier(2)

    async def answer(request_id: str) -> None:
        with bound_context(request_id=request_id):
            await both_bound.wait()
            logger.info("answered", wanted=request_id)
            await both_bound.wait()
            logger.info("answered again", wanted=request_id)

    with captured_logs() as events:
        async with asyncio.TaskGroup() as group:
            group.create_task(answer("one"))
            group.create_task(answer("two"))

    assert len(events) == 4
    assert all(event["request_id"] == event["wanted"] for event in events)


async def test_a_child_task_starts_with_its_parents_context_and_does_not_change_it() -> None:
    async def work() -> None:
        logger.info("child")
        bind_context(principal="user:7")

    with captured_logs() as events, bound_context(request_id="8f2c"):
        await asyncio.create_task(work())
        await asyncio.to_thread(logger.info, "thread")
        logger.info("parent")

    assert [event["request_id"] for event in events] == ["8f2c"] * 3
    assert "principal" not in events[2]


async def test_a_pure_asgi_middleware_and_its_endpoint_share_the_context() -> None:
    async def endpoint() -> None:
        bind_context(principal="user:7")
        logger.info("in the endpoint")

    async def middleware() -> None:
        with bound_context(request_id="8f2c"):
            await endpoint()
            logger.info("request finished")

    with captured_logs() as events:
        await middleware()
        logger.info("next request")

    assert [event.get("request_id") for event in events] == ["8f2c", "8f2c", None]
    assert [event.get("principal") for event in events] == ["user:7", "user:7", None]


def test_a_block_that_is_closed_from_another_context_does_not_fail() -> None:
    """As when the event loop closes a generator that was left behind."""

    def generate() -> Iterator[None]:
        with bound_context(request_id="8f2c"):
            yield

    generator = generate()
    copy_context().run(next, generator)
    next(generator, None)

    with captured_logs() as events:
        logger.info("after")

    assert "request_id" not in events[0]


def test_a_new_thread_has_a_context_of_its_own() -> None:
    with captured_logs() as events, bound_context(request_id="8f2c"):
        thread = threading.Thread(target=logger.info, args=["thread"])
        thread.start()
        thread.join()

    assert "request_id" not in events[0]

"""What other services do to this one: hang, fail, and be called off; over real connections."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from statistics import median, quantiles

import httpx
import pytest
from httpx2 import AsyncBaseTransport, AsyncClient, AsyncHTTPTransport, HTTPError

from backstay import create_client
from backstay.clients._concurrency import ConcurrencyLayer
from backstay.clients._transports import Layer
from backstay.errors import UpstreamTimeoutError, UpstreamUnavailableError

from .conftest import Length
from .upstream import Call, Upstream, answer, running

pytestmark = pytest.mark.proof

TIMEOUT = timedelta(milliseconds=400)
TIMEOUT_SECONDS = TIMEOUT.total_seconds()
SLACK_SECONDS = 0.1
CONCURRENCY = 20


@pytest.fixture
async def upstream(anyio_backend: object) -> AsyncIterator[Upstream]:
    async with running() as upstream:
        yield upstream


# Half of the calls hang


async def hang_on_odd_paths(call: Call) -> bytes:
    """Say nothing at all, or one byte of a thousand."""
    number = int(call.path.strip("/"))
    if number % 4 == 1:
        await asyncio.Event().wait()
    return answer() if number % 2 == 0 else answer(body=b"x" * 1000)[:-999]


async def measure_call(client: AsyncClient | httpx.AsyncClient, number: int) -> float:
    started = time.monotonic()
    with suppress(HTTPError, httpx.HTTPError):
        await client.get(f"/{number}")
    return time.monotonic() - started


async def measure_lateness(until: asyncio.Event) -> float:
    """Return how late this machine woke somebody up, at the most: that is nobody's fault here."""
    latest = 0.0
    while not until.is_set():
        started = time.monotonic()
        await asyncio.sleep(0.01)
        latest = max(latest, time.monotonic() - started - 0.01)
    return latest


async def test_half_of_the_calls_hang_and_the_deadline_holds_within_100_ms(
    upstream: Upstream, length: Length
) -> None:
    upstream.respond = hang_on_odd_paths  # type: ignore[method-assign]  # what it is for
    is_over = asyncio.Event()
    lateness = asyncio.create_task(measure_lateness(is_over))
    hanging: list[float] = []

    for _ in range(length(short=5, full=25)):
        # A client for each round: the breaker of a longer-lived one would not let calls hang for long.
        async with create_client("slow", base_url=upstream.url, timeout=TIMEOUT) as client:
            times = await asyncio.gather(*(measure_call(client, number) for number in range(40)))
        hanging += [seconds for seconds in times if seconds > TIMEOUT_SECONDS / 2]
    is_over.set()

    assert len(hanging) >= length(short=5, full=25) * 10
    assert median(hanging) < TIMEOUT_SECONDS + SLACK_SECONDS
    assert max(hanging) < TIMEOUT_SECONDS + SLACK_SECONDS + await lateness


async def test_plain_httpx_waits_longer_than_its_timeout(upstream: Upstream) -> None:
    """Its timeout is for each step; an upstream that sends it around takes as long as it likes."""

    async def send_around(call: Call) -> bytes:
        await asyncio.sleep(0.1)
        return answer(302, Location="/")

    upstream.respond = send_around  # type: ignore[method-assign]  # what it is for
    async with httpx.AsyncClient(base_url=upstream.url, timeout=0.2, follow_redirects=True) as client:
        seconds = await measure_call(client, 1)

    assert seconds > 1.0


# All calls fail


@pytest.mark.parametrize("status", [429, 503])
async def test_all_calls_fail_and_calls_made_are_at_most_1_1_times_those_wanted(
    upstream: Upstream, length: Length, status: int
) -> None:
    async def fail(call: Call) -> bytes:
        return answer(status)

    upstream.respond = fail  # type: ignore[method-assign]  # what it is for
    wanted = length(short=200, full=5000)

    async with create_client("down", base_url=upstream.url, retries=5) as client:
        for number in range(wanted):
            await measure_call(client, number)

    assert len(upstream.calls) <= wanted * 1.1
    if status == 429:  # an answer, to which the breaker has no objection: the budget alone limits
        assert len(upstream.calls) > wanted


async def test_an_open_breaker_answers_in_under_10_ms(upstream: Upstream, length: Length) -> None:
    upstream.respond = hang_on_odd_paths  # type: ignore[method-assign]  # what it is for

    async with create_client("down", base_url=upstream.url, timeout=TIMEOUT, retries=0) as client:
        await asyncio.gather(*(measure_call(client, 1) for _ in range(20)))
        times = []
        for _ in range(length(short=100, full=500)):
            started = time.monotonic()
            with pytest.raises((UpstreamUnavailableError, UpstreamTimeoutError)):
                await client.get("/1")
            times.append(time.monotonic() - started)

    # Now and then one of them is let through, to try; and the machine may halt for a moment.
    assert quantiles(times, n=20)[-1] < 0.01


# Calls are called off


async def cancel_calls(client: AsyncClient | httpx.AsyncClient, count: int) -> None:
    chance, cancelled = random.Random(1), 0  # the same moments each time
    while cancelled < count:
        calls = [asyncio.create_task(client.get("/")) for _ in range(3 * CONCURRENCY)]
        for call in calls:
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.03), call.cancel)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        cancelled += sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)


async def answer_soon(call: Call) -> bytes:
    await asyncio.sleep(0.005)
    return answer()


def find_layers(client: AsyncClient) -> list[AsyncBaseTransport]:
    layers = [client._transport]
    while isinstance(layers[-1], Layer):
        layers.append(layers[-1]._inner)
    return layers


async def test_30000_cancellations_leave_the_pool_whole(upstream: Upstream, length: Length) -> None:
    upstream.respond = answer_soon  # type: ignore[method-assign]  # what it is for

    async with create_client("busy", base_url=upstream.url, concurrency=CONCURRENCY) as client:
        await cancel_calls(client, length(short=1500, full=30_000))
        response = await client.get("/")
        slots = [layer._slots for layer in find_layers(client) if isinstance(layer, ConcurrencyLayer)]
        [pool] = [layer._pool for layer in find_layers(client) if isinstance(layer, AsyncHTTPTransport)]

        assert response.status_code == 200
        assert [each._value for each in slots] == [CONCURRENCY]
        assert pool._requests == []
        assert all(connection.is_idle() for connection in pool.connections)


async def test_the_pool_of_plain_httpx_does_not_survive_them(upstream: Upstream) -> None:
    upstream.respond = answer_soon  # type: ignore[method-assign]  # what it is for
    limits = httpx.Limits(max_connections=CONCURRENCY)

    client = httpx.AsyncClient(base_url=upstream.url, limits=limits, timeout=httpx.Timeout(5, pool=1))
    await cancel_calls(client, 3000)
    with pytest.raises(httpx.PoolTimeout):
        await client.get("/")
    await client.aclose()


# Answers are left half read


async def answer_at_length(call: Call) -> bytes:
    await asyncio.sleep(0.002)
    return answer(body=bytes(200_000))


async def read_a_part(client: AsyncClient, most: int) -> None:
    async with client.stream("GET", "/") as response:
        count = 0
        async for _ in response.aiter_bytes(1000):
            count += 1
            if count > most:
                return


async def leave_half_read(client: AsyncClient, rounds: int) -> None:
    chance = random.Random(3)
    for _ in range(rounds):
        calls = [asyncio.create_task(read_a_part(client, chance.randint(1, 300))) for _ in range(60)]
        for call in calls:
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.1), call.cancel)
        await asyncio.gather(*calls, return_exceptions=True)
    assert (await client.get("/")).status_code == 200


async def test_answers_that_are_left_half_read_leave_nothing_in_the_pool(
    upstream: Upstream, length: Length
) -> None:
    upstream.respond = answer_at_length  # type: ignore[method-assign]  # what it is for

    async with create_client("busy", base_url=upstream.url, concurrency=CONCURRENCY) as client:
        await leave_half_read(client, length(short=10, full=100))
        [pool] = [layer._pool for layer in find_layers(client) if isinstance(layer, AsyncHTTPTransport)]

        assert pool._requests == []
        assert all(connection.is_idle() for connection in pool.connections)


async def test_plain_httpx2_keeps_some_of_them_for_ever(upstream: Upstream) -> None:
    upstream.respond = answer_at_length  # type: ignore[method-assign]  # what it is for

    async with AsyncClient(base_url=upstream.url) as client:
        await leave_half_read(client, 40)

        assert client._transport._pool._requests != []  # type: ignore[attr-defined]  # its pool

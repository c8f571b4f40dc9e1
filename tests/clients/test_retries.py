"""What is tried again, how often, and when."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest
from httpx2 import AsyncClient, MockTransport, Request, Response

from backstay.clients._retries import RetryBudget, RetryLayer
from backstay.deadline import deadline

Outcome = Response | Exception


class Upstream:
    """Gives the outcomes in their order, and then the last one for ever."""

    def __init__(self, *outcomes: Callable[[], Outcome]) -> None:
        self.outcomes = outcomes
        self.calls = 0
        self.pauses: list[float] = []

    def respond(self, request: Request) -> Response:
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]()
        self.calls += 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def client(self, *, retries: int = 2, spare: int = 10) -> AsyncClient:
        layer = RetryLayer(MockTransport(self.respond), retries=retries, sleep=self.sleep)
        for _ in range(10 * spare):
            layer._budget.add_call()
        return AsyncClient(transport=layer, base_url="http://rates")


def status(code: int, **headers: str) -> Callable[[], Outcome]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: Response(code, headers=named)


def broken() -> Outcome:
    return httpx2.ReadError("gone")


@pytest.mark.parametrize("first", [broken, status(429), status(502), status(503), status(504)])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_what_is_idempotent_is_tried_again(method: str, first: Callable[[], Outcome]) -> None:
    upstream = Upstream(first, status(200))

    async with upstream.client() as client:
        assert (await client.request(method, "/")).status_code == 200

    assert upstream.calls == 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_the_rest_is_not_unless_it_has_an_idempotency_key(method: str) -> None:
    plain, keyed = Upstream(status(503), status(201)), Upstream(status(503), status(201))

    async with plain.client() as client:
        assert (await client.request(method, "/", json={})).status_code == 503
    async with keyed.client() as client:
        response = await client.request(method, "/", json={}, headers={"idempotency-key": "1"})

    assert (response.status_code, plain.calls, keyed.calls) == (201, 1, 2)


@pytest.mark.parametrize("code", [200, 302, 400, 404, 409, 500, 501])
async def test_answers_that_would_be_the_same_are_taken(code: int) -> None:
    upstream = Upstream(status(code))

    async with upstream.client() as client:
        assert (await client.get("/")).status_code == code

    assert upstream.calls == 1


async def test_a_body_that_is_made_as_it_is_sent_is_not_sent_again() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"part"

    upstream = Upstream(status(503))

    async with upstream.client() as client:
        await client.put("/", content=parts())

    assert upstream.calls == 1


async def test_the_last_outcome_is_the_outcome() -> None:
    refusing, failing = Upstream(status(503)), Upstream(broken)

    async with refusing.client(retries=3) as client:
        assert (await client.get("/")).status_code == 503
    async with failing.client(retries=3) as client:
        with pytest.raises(httpx2.ReadError):
            await client.get("/")

    assert (refusing.calls, failing.calls) == (4, 4)


async def test_pauses_are_random_under_a_bound_that_doubles() -> None:
    upstream = Upstream(status(503))

    async with upstream.client(retries=10) as client:
        await client.get("/")

    bounds = [min(2.0, 0.05 * 2**attempt) for attempt in range(10)]
    assert all(0 <= pause <= bound for pause, bound in zip(upstream.pauses, bounds, strict=True))
    assert len(set(upstream.pauses)) == 10


async def test_retry_after_is_obeyed_in_both_forms() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    upstream = Upstream(status(503, Retry_After="7"), status(429, Retry_After=date), status(200))

    async with upstream.client() as client:
        assert (await client.get("/")).status_code == 200

    assert upstream.pauses[0] == 7.0
    assert 25.0 < upstream.pauses[1] <= 30.0


async def test_nothing_is_tried_again_past_the_deadline() -> None:
    upstream = Upstream(status(503, Retry_After="7"))

    async with upstream.client() as client:
        with deadline(timedelta(seconds=5)):
            assert (await client.get("/")).status_code == 503

    assert (upstream.calls, upstream.pauses) == (1, [])


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "", "Wed, 99 Foo 2026 00:00:00 GMT"])
async def test_a_retry_after_that_says_nothing_changes_nothing(text: str) -> None:
    upstream = Upstream(status(503, Retry_After=text), status(200))

    async with upstream.client() as client:
        await client.get("/")

    assert upstream.pauses[0] <= 0.05


@pytest.mark.parametrize("wanted", [10, 100, 1000])
async def test_when_all_fail_the_load_is_a_tenth_more(wanted: int) -> None:
    upstream = Upstream(status(503))

    async with upstream.client(spare=0) as client:
        for _ in range(wanted):
            await client.get("/")

    assert upstream.calls == wanted * 11 // 10


async def test_without_a_budget_it_is_three_times_as_much() -> None:
    upstream = Upstream(status(503))

    async with upstream.client(spare=0) as client:
        layer = client._transport
        assert isinstance(layer, RetryLayer)
        layer._budget.take = lambda: True  # type: ignore[method-assign]  # what others do
        for _ in range(100):
            await client.get("/")

    assert upstream.calls == 300


def test_what_was_not_used_is_kept_for_ten_retries_at_the_most() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.add_call()

    assert [budget.take() for _ in range(12)] == [True] * 10 + [False] * 2

"""docs/decisions/0007-idempotency.md, from outside, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI, Form, Request
from httpx2 import AsyncClient
from sqlalchemy import MetaData, Select, func, select
from sqlalchemy.orm import Mapped, mapped_column
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import RedirectResponse, StreamingResponse
from starlette.responses import Response as PlainResponse

from backstay import (
    ETagDep,
    IfMatchDep,
    Model,
    Schema,
    SessionDep,
    VersionMixin,
    create_app,
    events,
    idempotent,
    install,
    public,
    repeatable,
)
from backstay.db import Database
from backstay.db.model import NAMING_CONVENTION
from backstay.db.records import idempotency_table
from backstay.errors import ConflictError, RateLimitedError
from backstay.settings import HttpSettings, IdempotencySettings, Settings

pytestmark = pytest.mark.databases("sqlite", "postgresql")


class Base(Model):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Order(VersionMixin, Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


idempotency_table.to_metadata(Base.metadata)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Base.metadata


class OrderRead(Schema):
    id: int
    item: str


class OrderWrite(Schema):
    item: str


router = APIRouter()
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd"}
MARKED = [idempotent()]


async def save(session: SessionDep, item: str) -> Order:
    order = Order(item=item)
    session.add(order)
    await session.flush()
    return order


@router.post("/orders", status_code=201, dependencies=MARKED)
async def create(order: OrderWrite, session: SessionDep, response: PlainResponse) -> OrderRead:
    saved = await save(session, order.item)
    response.headers["Location"] = f"/orders/{saved.id}"
    response.headers["Set-Cookie"] = "basket=secret"
    return OrderRead.model_validate(saved)


@router.post("/unmarked", status_code=201)
async def create_unmarked(order: OrderWrite, session: SessionDep) -> OrderRead:
    return OrderRead.model_validate(await save(session, order.item))


@router.post("/optional", dependencies=[idempotent(required=False)])
async def create_optionally(order: OrderWrite, session: SessionDep) -> OrderRead:
    return OrderRead.model_validate(await save(session, order.item))


@router.post("/baskets/{basket_id}", dependencies=MARKED)
async def create_in_basket(basket_id: str, session: SessionDep) -> OrderRead:
    return OrderRead.model_validate(await save(session, basket_id))


@router.patch("/orders/{order_id}", dependencies=MARKED)
async def change(order_id: int, new: OrderWrite, session: SessionDep, if_match: IfMatchDep) -> OrderRead:
    order = if_match.check(await session.get_one(Order, order_id))
    order.item = new.item  # flushed by nobody before the response is made
    return OrderRead.model_validate(order)


@router.post("/tagged", dependencies=MARKED)
async def create_tagged(order: OrderWrite, session: SessionDep, etag: ETagDep) -> OrderRead:
    return OrderRead.model_validate(etag.tag(await save(session, order.item)))


@router.post("/silent", status_code=204, dependencies=MARKED)
async def create_silently(session: SessionDep) -> None:
    await save(session, "silence")


failures: list[Exception | PlainResponse] = []


@router.post("/failing", dependencies=MARKED)
async def create_or_fail(session: SessionDep) -> Any:
    saved = OrderRead.model_validate(await save(session, "failing"))
    match failures.pop() if failures else None:
        case Exception() as error:
            raise error
        case PlainResponse() as response:
            return response
    return saved


@router.post("/repeatable", dependencies=[repeatable, idempotent()])
async def create_repeatably(order: OrderWrite, session: SessionDep) -> OrderRead:
    await session.scalar(count_orders())
    return OrderRead.model_validate(await save(session, order.item))


@router.post("/form", dependencies=MARKED)
async def create_from_form(item: Annotated[str, Form()], session: SessionDep) -> OrderRead:
    return OrderRead.model_validate(await save(session, item[:9]))


@router.post("/large", dependencies=MARKED)
async def answer_much(session: SessionDep, size: int) -> PlainResponse:
    await save(session, "large")
    return PlainResponse(b"." * size)


@router.post("/streamed", dependencies=MARKED)
async def answer_with_a_stream(session: SessionDep) -> StreamingResponse:
    await save(session, "streamed")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a piece"

    return StreamingResponse(pieces())


@router.post("/undone", dependencies=MARKED)
async def roll_back(session: SessionDep) -> None:
    await session.rollback()
    await save(session, "undone")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "idempotency": IdempotencySettings(wait=timedelta(seconds=30)),
            "http": HttpSettings(cors_origins=("https://shop.example",), max_body_bytes=4 * 1024 * 1024),
        }
    )


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    app = create_app(settings, routers=[router], dependencies=[public])

    @app.exception_handler(LookupError)
    async def redirect(request: Request, error: LookupError) -> RedirectResponse:
        return RedirectResponse("/elsewhere")

    return app


def count_orders() -> Select[int]:
    return select(func.count()).select_from(Order)


async def orders(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(count_orders()) or 0


async def keys(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(idempotency_table)) or 0


class TestReplaying:
    async def test_without_the_marker_a_request_that_comes_twice_has_two_effects(
        self, client: AsyncClient, database: Database
    ) -> None:
        """The fault."""
        for _ in range(2):
            await client.post("/unmarked", json={"item": "tea"}, headers=KEY)

        assert await orders(database) == 2

    async def test_a_request_that_comes_again_gets_the_first_answer_and_has_no_second_effect(
        self, client: AsyncClient, database: Database
    ) -> None:
        first, second = [await client.post("/orders", json={"item": "tea"}, headers=KEY) for _ in range(2)]

        assert (
            (second.status_code, second.content)
            == (first.status_code, first.content)
            == (201, b'{"id":1,"item":"tea"}')
        )
        assert second.headers["Location"] == first.headers["Location"] == "/orders/1"
        assert second.headers["Content-Type"] == first.headers["Content-Type"]
        assert second.headers["Content-Length"] == first.headers["Content-Length"]
        assert (first.headers.get("Idempotency-Replayed"), second.headers["Idempotency-Replayed"]) == (
            None,
            "true",
        )
        assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
        assert await orders(database) == 1

    async def test_cookies_are_not_given_again(self, client: AsyncClient) -> None:
        first, second = [await client.post("/orders", json={"item": "tea"}, headers=KEY) for _ in range(2)]

        assert ("set-cookie" in first.headers, "set-cookie" in second.headers) == (True, False)

    async def test_an_answer_without_a_body_is_given_again(
        self, client: AsyncClient, database: Database
    ) -> None:
        answers = [await client.post("/silent", headers=KEY) for _ in range(2)]

        assert [(answer.status_code, answer.content) for answer in answers] == [(204, b"")] * 2
        assert "content-length" not in answers[1].headers
        assert await orders(database) == 1

    async def test_another_key_or_route_is_another_request(
        self, client: AsyncClient, database: Database
    ) -> None:
        for path, key in (("/orders", "a"), ("/orders", "b"), ("/optional", "a")):
            answer = await client.post(path, json={"item": "tea"}, headers={"Idempotency-Key": key})
            assert "Idempotency-Replayed" not in answer.headers

        assert await orders(database) == 3

    async def test_twenty_at_once_have_one_effect_and_one_answer(
        self, client: AsyncClient, database: Database
    ) -> None:
        answers = await asyncio.gather(
            *(client.post("/orders", json={"item": "tea"}, headers=KEY) for _ in range(20))
        )

        assert {(answer.status_code, answer.content) for answer in answers} == {
            (201, b'{"id":1,"item":"tea"}')
        }
        assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 19
        assert await orders(database) == 1

    async def test_repeatable_ones_at_once_have_one_effect_too(
        self, client: AsyncClient, database: Database
    ) -> None:
        answers = await asyncio.gather(
            *(client.post("/repeatable", json={"item": "tea"}, headers=KEY) for _ in range(8))
        )

        assert {answer.status_code for answer in answers} == {200}
        assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
        assert await orders(database) == 1

    async def test_the_etag_is_given_again(self, client: AsyncClient) -> None:
        first, second = [await client.post("/tagged", json={"item": "tea"}, headers=KEY) for _ in range(2)]

        assert first.headers["ETag"] == second.headers["ETag"]
        assert first.headers["ETag"].startswith('"1-')

    async def test_the_etag_of_a_late_flush_is_given_again_and_names_the_new_version(
        self, client: AsyncClient, database: Database
    ) -> None:
        await client.post("/unmarked", json={"item": "tea"})
        headers = KEY | {"If-Match": '"1"'}

        answers = [await client.patch("/orders/1", json={"item": "mate"}, headers=headers) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].headers["ETag"] == answers[1].headers["ETag"]
        assert answers[0].headers["ETag"].startswith('"2-')

    async def test_a_form_is_told_from_another_form(self, client: AsyncClient, database: Database) -> None:
        statuses = [
            (await client.post("/form", data={"item": item}, headers=KEY)).status_code
            for item in ("tea", "tea", "mate")
        ]

        assert statuses == [200, 200, 422]
        assert await orders(database) == 1

    async def test_a_form_that_is_too_long_to_be_compared_is_refused(
        self, client: AsyncClient, database: Database
    ) -> None:
        fields = {f"field{number}": "." * 10_000 for number in range(110)} | {"item": "tea"}

        assert (await client.post("/form", data=fields, headers=KEY)).status_code == 413
        assert await orders(database) == 0

    async def test_a_long_json_body_is_compared(self, client: AsyncClient, database: Database) -> None:
        headers = KEY | {"Content-Type": "application/json"}
        statuses = [
            (await client.post("/orders", content=b'{"item":"tea"}' + spaces, headers=headers)).status_code
            for spaces in (b" " * 2_000_000, b" " * 2_000_000, b" " * 2_000_001)
        ]

        assert statuses == [201, 201, 422]


class TestRefusing:
    @pytest.mark.parametrize(
        ("path", "changed"),
        [
            ("/orders", {"json": {"item": "coffee"}}),
            ("/orders?page=2", {"json": {"item": "tea"}}),
            (
                "/orders",
                {"content": b'{"item":"tea"}', "headers": {"Content-Type": "application/x+json"} | KEY},
            ),
        ],
    )
    async def test_another_request_under_the_same_key_is_refused(
        self, client: AsyncClient, database: Database, path: str, changed: dict[str, Any]
    ) -> None:
        await client.post("/orders", json={"item": "tea"}, headers=KEY)

        answer = await client.post(path, **{"headers": KEY} | changed)

        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        assert "Idempotency-Replayed" not in answer.headers
        assert await orders(database) == 1

    async def test_another_value_in_the_path_is_another_request(self, client: AsyncClient) -> None:
        await client.post("/baskets/a", headers=KEY)

        answer = await client.post("/baskets/b", headers=KEY)

        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")

    async def test_a_request_without_a_key_is_refused(self, client: AsyncClient, database: Database) -> None:
        answer = await client.post("/orders", json={"item": "tea"})

        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert "Idempotency-Key" in answer.json()["detail"]
        assert await orders(database) == 0

    async def test_where_the_key_is_optional_a_request_without_one_just_runs(
        self, client: AsyncClient, database: Database
    ) -> None:
        answers = [await client.post("/optional", json={"item": "tea"}) for _ in range(2)]

        assert [answer.json()["id"] for answer in answers] == [1, 2]
        assert await keys(database) == 0

    @pytest.mark.parametrize("path", ["/orders", "/optional"])
    @pytest.mark.parametrize("key", [b"", b"a b", b"a\x7f", b"\xe4", b"x" * 256])
    async def test_what_is_no_key_is_refused(
        self, client: AsyncClient, database: Database, path: str, key: bytes
    ) -> None:
        answer = await client.post(path, json={"item": "tea"}, headers=[(b"Idempotency-Key", key)])

        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert await orders(database) == 0

    async def test_the_longest_key_is_one(self, client: AsyncClient) -> None:
        headers = {"Idempotency-Key": "x" * 255}

        assert (await client.post("/orders", json={"item": "tea"}, headers=headers)).status_code == 201

    async def test_two_keys_are_none(self, client: AsyncClient) -> None:
        twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]

        assert (await client.post("/orders", json={"item": "tea"}, headers=twice)).status_code == 400


class TestFailing:
    @pytest.mark.parametrize(
        ("failure", "status"),
        [
            (ConflictError("No."), 409),
            (RateLimitedError(), 429),
            (RuntimeError("a bug"), 500),
            (LookupError("becomes a redirect"), 307),
            (PlainResponse(status_code=404), 404),
            (PlainResponse(status_code=503), 503),
        ],
    )
    async def test_what_rolls_back_is_not_stored_and_the_key_is_free_again(
        self, client: AsyncClient, database: Database, failure: Exception | PlainResponse, status: int
    ) -> None:
        failures[:] = [failure]

        answers = [await client.post("/failing", headers=KEY) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [status, 200, 200]
        assert ["Idempotency-Replayed" in answer.headers for answer in answers] == [False, False, True]
        assert await orders(database) == 1

    async def test_a_redirect_that_commits_is_given_again(
        self, client: AsyncClient, database: Database
    ) -> None:
        failures[:] = [RedirectResponse("/there", status_code=303)]

        answers = [await client.post("/failing", headers=KEY) for _ in range(2)]

        assert [(answer.status_code, answer.headers["Location"]) for answer in answers] == [
            (303, "/there")
        ] * 2
        assert await orders(database) == 1

    async def test_a_body_that_is_not_valid_leaves_the_key_free(self, client: AsyncClient) -> None:
        statuses = [
            (await client.post("/orders", json=body, headers=KEY)).status_code
            for body in ({"item": 7}, {"item": "tea"})
        ]

        assert statuses == [422, 201]

    async def test_a_stream_is_an_error_and_has_no_effect(
        self, client: AsyncClient, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = await client.post("/streamed", headers=KEY)

        assert answer.status_code == 500
        assert "cannot answer with a stream" in caplog.text
        assert (await orders(database), await keys(database)) == (0, 0)

    async def test_an_answer_over_one_mebibyte_is_an_error_and_has_no_effect(
        self, client: AsyncClient, database: Database
    ) -> None:
        limit = 1024 * 1024
        statuses = [
            (await client.post(f"/large?size={size}", headers={"Idempotency-Key": str(size)})).status_code
            for size in (limit, limit + 1)
        ]

        assert statuses == [200, 500]
        assert (await orders(database), await keys(database)) == (1, 1)

    async def test_a_session_that_the_route_rolls_back_is_an_error_and_has_no_effect(
        self, client: AsyncClient, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert (await client.post("/undone", headers=KEY)).status_code == 500
        assert "begin_nested" in caplog.text
        assert await orders(database) == 0


class TestTelling:
    async def test_the_meetings_are_events(self, client: AsyncClient) -> None:
        heard: list[events.Event] = []
        with events.subscribed(heard.append, events.IdempotencyKeyMet):
            for item in ("tea", "tea", "coffee"):
                await client.post("/orders", json={"item": item}, headers=KEY)

        assert heard == [
            events.IdempotencyKeyMet(route="/orders", outcome="replayed"),
            events.IdempotencyKeyMet(route="/orders", outcome="reused"),
        ]

    async def test_the_record_does_not_count_as_a_change(self, client: AsyncClient) -> None:
        heard: list[events.Event] = []
        with events.subscribed(heard.append, events.TransactionCommitted):
            await client.post("/orders", json={"item": "tea"}, headers=KEY)

        assert heard == [events.TransactionCommitted(writes=frozenset({"orders", "orders:1"}))]

    async def test_pages_of_other_origins_may_see_that_an_answer_came_again(
        self, client: AsyncClient
    ) -> None:
        headers = KEY | {"Origin": "https://shop.example"}
        for _ in range(2):
            answer = await client.post("/orders", json={"item": "tea"}, headers=headers)

        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"ETag", "Idempotency-Replayed", "X-Request-ID"} <= set(exposed)


class TestInstalled:
    @pytest.fixture
    def app(self, settings: Settings) -> FastAPI:
        app = FastAPI()
        app.include_router(router)

        async def pass_on(request: Request, call_next: Callable[[Request], Any]) -> Any:
            return await call_next(request)

        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
        install(app, settings)
        return app

    async def test_an_answer_that_comes_through_a_middleware_in_pieces_is_stored(
        self, client: AsyncClient, database: Database
    ) -> None:
        answers = [await client.post("/orders", json={"item": "tea"}, headers=KEY) for _ in range(2)]

        assert answers[0].content == answers[1].content == b'{"id":1,"item":"tea"}'
        assert "Idempotency-Replayed" in answers[1].headers
        assert await orders(database) == 1

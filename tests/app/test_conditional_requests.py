"""docs/decisions/0005-conditional-requests.md, from outside, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from openapi_spec_validator import validate
from sqlalchemy import ForeignKey, MetaData
from sqlalchemy.orm import Mapped, joinedload, mapped_column, relationship
from starlette.responses import Response, StreamingResponse

from backstay import (
    ConditionDep,
    ETagDep,
    IfMatchDep,
    InputSchema,
    Model,
    ReadSessionDep,
    Schema,
    SessionDep,
    VersionMixin,
    create_app,
    install,
    public,
    repeatable,
)
from backstay.db import Database
from backstay.db.model import NAMING_CONVENTION
from backstay.errors import NotFoundError
from backstay.settings import Settings

pytestmark = pytest.mark.databases("sqlite", "postgresql")


class Base(Model):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Maker(Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Boat(VersionMixin, Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    maker_id: Mapped[int] = mapped_column(ForeignKey(Maker.id))
    maker: Mapped[Maker] = relationship()


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return Base.metadata


class MakerRead(Schema):
    name: str


class BoatRead(Schema):
    id: int
    name: str
    maker: MakerRead
    version: int


class BoatWrite(InputSchema):
    name: str


router = APIRouter()


async def find_boat(session: SessionDep, boat_id: int) -> Boat:
    boat = await session.get(Boat, boat_id, options=[joinedload(Boat.maker)])
    if boat is None:
        raise NotFoundError("There is no such boat.")
    return boat


@router.api_route("/boats/{boat_id}", methods=["GET", "HEAD"])
async def read(boat_id: int, session: ReadSessionDep, etag: ETagDep, response: Response) -> BoatRead:
    response.headers["Vary"] = "Accept-Language"
    return etag.tag(BoatRead.model_validate(await find_boat(session, boat_id)))


@router.post("/boats", status_code=201)
async def create(boat: BoatWrite, session: SessionDep, etag: ETagDep) -> BoatRead:
    maker = await session.get_one(Maker, 1)
    new = etag.tag(Boat(id=9, name=boat.name, maker=maker))
    session.add(new)
    await session.flush()
    return BoatRead.model_validate(new)


@router.patch("/boats/{boat_id}")
async def change(boat_id: int, boat: BoatWrite, session: SessionDep, if_match: IfMatchDep) -> BoatRead:
    stored = if_match.check(await find_boat(session, boat_id))
    stored.name = boat.name
    await session.flush()
    return BoatRead.model_validate(stored)


@router.delete("/boats/{boat_id}", status_code=204)
async def remove(boat_id: int, session: SessionDep, if_match: IfMatchDep) -> None:
    await session.delete(if_match.check(await find_boat(session, boat_id)))


@router.put("/boats/{boat_id}")
async def put(boat_id: int, boat: BoatWrite, session: SessionDep, condition: ConditionDep) -> BoatRead:
    stored = condition.check(await session.get(Boat, boat_id, options=[joinedload(Boat.maker)]))
    if stored is None:
        stored = condition.tag(Boat(id=boat_id, maker=await session.get_one(Maker, 1)))
        session.add(stored)
    stored.name = boat.name
    await session.flush()
    return BoatRead.model_validate(stored)


@router.post("/boats/{boat_id}/launch", status_code=204)
async def launch(boat_id: int, session: SessionDep, if_match: IfMatchDep) -> None:
    if_match.check(await find_boat(session, boat_id)).name += ", launched"


@router.post("/boats/{boat_id}/unchecked")
async def forget_to_check(boat_id: int, session: SessionDep, if_match: IfMatchDep) -> None:
    (await find_boat(session, boat_id)).name = "overwritten"


@router.get("/checked/{boat_id}")
async def check_and_tag(
    boat_id: int, session: ReadSessionDep, condition: ConditionDep, etag: ETagDep
) -> BoatRead:
    stored = condition.check(await find_boat(session, boat_id))
    return BoatRead.model_validate(etag.tag(stored))


@router.get("/plain")
async def answer_plainly(session: ReadSessionDep) -> int:
    return 1


@router.get("/streamed")
async def stream(etag: ETagDep) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    etag.tag(BoatRead(id=1, name="x", maker=MakerRead(name="x"), version=4))
    return StreamingResponse(pieces())


@router.get("/own-tag")
async def own_tag(etag: ETagDep) -> StreamingResponse:
    answer = await stream(etag)
    answer.headers["ETag"] = '"mine"'
    return answer


@router.get("/failed")
async def fail(etag: ETagDep) -> Response:
    etag.tag(BoatRead(id=1, name="x", maker=MakerRead(name="x"), version=4))
    return Response("no", status_code=404)


@router.get("/empty")
async def answer_nothing(etag: ETagDep) -> Response:
    etag.tag(BoatRead(id=1, name="x", maker=MakerRead(name="x"), version=4))
    return Response()


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


@pytest.fixture(autouse=True)
async def boat(database: Database) -> None:
    async with database.transaction() as session:
        session.add(Boat(id=1, name="Ann", maker=Maker(id=1, name="Smith")))


async def name_of_boat(database: Database) -> str:
    async with database.reading() as session:
        return (await session.get_one(Boat, 1)).name


def body(name: str = "Bea") -> dict[str, str]:
    return {"name": name}


class TestReading:
    async def test_a_route_without_conditions_has_no_tag(self, client: AsyncClient) -> None:
        answer = await client.get("/plain", headers={"If-None-Match": "*", "If-Match": '"7"'})

        assert (answer.status_code, answer.json()) == (200, 1)
        assert {"etag", "cache-control"}.isdisjoint(answer.headers)

    async def test_a_read_carries_a_strong_tag_that_names_the_version(self, client: AsyncClient) -> None:
        answer = await client.get("/boats/1")

        assert answer.status_code == 200
        assert answer.headers["etag"].startswith('"1-')
        assert answer.headers["cache-control"] == "no-cache"

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*", ', W/"1" ,{},', " {}\t"])
    async def test_who_has_it_is_answered_304_without_a_body(
        self, client: AsyncClient, method: str, form: str
    ) -> None:
        first = await client.get("/boats/1")
        known = form.format(first.headers["etag"])

        again = await client.request(method, "/boats/1", headers={"If-None-Match": known})

        assert (again.status_code, again.content) == (304, b"")
        for name in ("etag", "vary", "cache-control"):
            assert again.headers[name] == first.headers[name]
        assert again.headers["x-request-id"]
        assert {"content-type", "content-length"}.isdisjoint(again.headers)

    async def test_the_lines_of_a_header_are_one_list(self, client: AsyncClient) -> None:
        tag = (await client.get("/boats/1")).headers["etag"]
        lines = [("If-None-Match", '"other"'), ("If-None-Match", tag)]

        assert (await client.get("/boats/1", headers=lines)).status_code == 304

    async def test_a_change_is_shown(self, client: AsyncClient) -> None:
        tag = (await client.get("/boats/1")).headers["etag"]
        await client.patch("/boats/1", json=body(), headers={"If-Match": tag})

        again = await client.get("/boats/1", headers={"If-None-Match": tag})

        assert (again.status_code, again.json()["name"]) == (200, "Bea")
        assert again.headers["etag"] != tag

    async def test_a_change_of_what_is_embedded_is_shown_too(
        self, client: AsyncClient, database: Database
    ) -> None:
        """The version alone would hide it: the boat itself has not changed."""
        tag = (await client.get("/boats/1")).headers["etag"]
        async with database.transaction() as session:
            (await session.get_one(Maker, 1)).name = "Smith and daughters"

        again = await client.get("/boats/1", headers={"If-None-Match": tag})

        assert (again.status_code, again.json()["version"]) == (200, 1)
        assert again.json()["maker"]["name"] == "Smith and daughters"

    async def test_a_version_without_the_body_does_not_hide_a_body(self, client: AsyncClient) -> None:
        assert (await client.get("/boats/1", headers={"If-None-Match": '"1"'})).status_code == 200

    async def test_if_match_comes_before_if_none_match(self, client: AsyncClient) -> None:
        tag = (await client.get("/boats/1")).headers["etag"]
        failed = await client.get("/boats/1", headers={"If-Match": '"7"', "If-None-Match": tag})
        met = await client.get("/boats/1", headers={"If-Match": '"1"', "If-None-Match": tag})

        assert (failed.status_code, met.status_code) == (412, 304)

    async def test_a_read_may_check_too(self, client: AsyncClient) -> None:
        tag = (await client.get("/checked/1")).headers["etag"]
        known = await client.get("/checked/1", headers={"If-None-Match": tag})
        failed = await client.get("/checked/1", headers={"If-Match": '"7"'})

        assert (known.status_code, failed.status_code) == (304, 412)

    async def test_a_failure_is_no_304(self, client: AsyncClient) -> None:
        headers = {"If-None-Match": "*"}

        for path in ("/failed", "/boats/2"):
            answer = await client.get(path, headers=headers)
            assert answer.status_code == 404
            assert "etag" not in answer.headers

    async def test_a_stream_passes_without_a_tag(self, client: AsyncClient) -> None:
        answer = await client.get("/streamed", headers={"If-None-Match": "*"})

        assert (answer.status_code, answer.content) == (200, b"onetwo")
        assert "etag" not in answer.headers

    async def test_a_tag_of_the_route_itself_is_kept_and_answered(self, client: AsyncClient) -> None:
        first = await client.get("/own-tag")
        again = await client.get("/own-tag", headers={"If-None-Match": '"mine"'})

        assert (first.headers["etag"], first.content) == ('"mine"', b"onetwo")
        assert (again.status_code, again.content) == (304, b"")

    async def test_an_empty_answer_has_no_tag(self, client: AsyncClient) -> None:
        assert "etag" not in (await client.get("/empty")).headers


class TestWriting:
    async def test_an_unguarded_change_overwrites_what_its_caller_has_not_seen(
        self, client: AsyncClient, database: Database
    ) -> None:
        """The fault, without our code: the later of two changes wins, and nobody is told."""
        assert (await client.put("/boats/1", json=body("first"))).status_code == 200
        assert (await client.put("/boats/1", json=body("second"))).status_code == 200

        assert await name_of_boat(database) == "second"

    async def test_what_was_read_can_be_changed_and_changed_again(self, client: AsyncClient) -> None:
        tag = (await client.get("/boats/1")).headers["etag"]

        for version, name in ((2, "Bea"), (3, "Cid")):
            answer = await client.patch("/boats/1", json=body(name), headers={"If-Match": tag})
            assert (answer.status_code, answer.json()["version"]) == (200, version)
            tag = answer.headers["etag"]
            assert tag.startswith(f'"{version}-')

        read = await client.get("/boats/1", headers={"If-None-Match": tag})
        assert read.status_code == 304  # the answer to the change was what a read shows

    async def test_what_was_created_can_be_changed(self, client: AsyncClient) -> None:
        created = await client.post("/boats", json=body())
        headers = {"If-Match": created.headers["etag"]}

        assert created.status_code == 201
        assert (await client.patch("/boats/9", json=body("Cid"), headers=headers)).status_code == 200

    @pytest.mark.parametrize("method", ["PATCH", "DELETE"])
    async def test_what_was_changed_since_is_refused(
        self, client: AsyncClient, database: Database, method: str
    ) -> None:
        tag = (await client.get("/boats/1")).headers["etag"]
        await client.patch("/boats/1", json=body("first"), headers={"If-Match": tag})

        answer = await client.request(method, "/boats/1", headers={"If-Match": tag}, json=body("second"))

        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["etag"] == '"2"'
        assert await name_of_boat(database) == "first"

    @pytest.mark.parametrize("given", ['"1"', '"0", "1"', "*", '"1-of-another-representation"'])
    async def test_the_version_is_what_counts(self, client: AsyncClient, given: str) -> None:
        answer = await client.patch("/boats/1", json=body(), headers={"If-Match": given})

        assert answer.status_code == 200

    @pytest.mark.parametrize("given", ['"11"', '""', '"x-1"', '"-1"', '"01"'])
    async def test_another_version_is_refused(self, client: AsyncClient, given: str) -> None:
        answer = await client.patch("/boats/1", json=body(), headers={"If-Match": given})

        assert answer.status_code == 412

    async def test_a_weak_tag_never_satisfies_if_match(self, client: AsyncClient) -> None:
        answer = await client.patch("/boats/1", json=body(), headers={"If-Match": 'W/"1"'})

        assert answer.status_code == 412
        assert answer.json()["detail"] == 'A weak tag never satisfies If-Match; send it without "W/".'

    @pytest.mark.parametrize("method", ["PATCH", "DELETE"])
    async def test_a_change_without_if_match_is_told_what_to_send(
        self, client: AsyncClient, database: Database, method: str
    ) -> None:
        answer = await client.request(method, "/boats/1")

        assert (answer.status_code, answer.json()["code"]) == (428, "precondition_required")
        assert answer.json()["detail"] == (
            'Send the header If-Match with the ETag of what you have read, such as If-Match: "3".'
        )
        assert answer.headers["cache-control"] == "no-store"
        assert await name_of_boat(database) == "Ann"

    @pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
    @pytest.mark.parametrize("given", ["1", "", ",", '"1', '"1" "2"', '*, "1"', 'w/"1"', '"a"b"', '"\x7f"'])
    async def test_what_is_no_tag_is_a_bad_request(
        self, client: AsyncClient, header: str, given: str
    ) -> None:
        answer = await client.put("/boats/1", json=body(), headers={header: given})

        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert answer.json()["detail"] == (
            f'The header {header} holds entity tags in double quotes, such as {header}: "3", or * alone.'
        )

    async def test_a_long_header_is_read_in_time_that_grows_with_it(self, client: AsyncClient) -> None:
        tags = ",".join(f'"{number}"' for number in range(2, 4_000))
        loop = asyncio.get_running_loop()
        began = loop.time()

        answers = [
            await client.put("/boats/1", json=body(), headers={"If-Match": given})
            for given in (tags, tags + ",x", " \t" * 10_000 + "x")
        ]

        assert [answer.status_code for answer in answers] == [412, 400, 400]
        assert loop.time() - began < 2

    async def test_an_answer_without_a_body_names_the_new_version(self, client: AsyncClient) -> None:
        answer = await client.post("/boats/1/launch", headers={"If-Match": '"1"'})
        again = await client.post("/boats/1/launch", headers={"If-Match": answer.headers["etag"]})

        assert (answer.status_code, answer.headers["etag"]) == (204, '"2"')
        assert again.status_code == 204

    async def test_what_is_gone_has_no_tag(self, client: AsyncClient) -> None:
        answer = await client.delete("/boats/1", headers={"If-Match": '"1"'})

        assert answer.status_code == 204
        assert "etag" not in answer.headers
        assert (await client.get("/boats/1")).status_code == 404

    async def test_what_demands_if_match_and_does_not_look_is_a_bug_that_changes_nothing(
        self, client: AsyncClient, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = await client.post("/boats/1/unchecked", headers={"If-Match": '"7"'})

        assert answer.status_code == 500
        assert await name_of_boat(database) == "Ann"
        assert "call `if_match.check(row)`" in str(caplog.records[-1].exc_info)


class TestPutting:
    async def test_what_must_not_exist_is_created_once(self, client: AsyncClient, database: Database) -> None:
        headers = {"If-None-Match": "*"}
        first = await client.put("/boats/2", json=body(), headers=headers)
        second = await client.put("/boats/2", json=body(), headers=headers)

        assert (first.status_code, first.headers["etag"][:3]) == (200, '"1-')
        assert (second.status_code, second.headers["etag"]) == (412, '"1"')
        assert second.json()["detail"] == "It exists already, in a version that If-None-Match rules out."

    async def test_what_does_not_exist_has_no_version(self, client: AsyncClient) -> None:
        for given in ('"1"', "*"):
            answer = await client.put("/boats/2", json=body(), headers={"If-Match": given})
            assert answer.status_code == 412
            assert "etag" not in answer.headers


@pytest.mark.databases("postgresql")
class TestRaces:
    """Two requests that both pass the check; the database lets one of them through.

    On SQLite they cannot meet: a writing transaction waits at its begin for the one before it.
    """

    @pytest.fixture
    def meet(self, settings: Settings) -> Callable[..., Awaitable[list[Any]]]:
        """Send the same change twice, and hold each until both have read."""
        both = asyncio.Barrier(2)

        async def change_late(
            boat_id: int, boat: BoatWrite, session: SessionDep, condition: ConditionDep
        ) -> int:
            stored = condition.check(await find_boat(session, boat_id))
            await both.wait()
            stored.name = boat.name
            return stored.version

        async def meet(ask: Any, running: Any, *, headers: dict[str, str]) -> list[Any]:
            late = APIRouter()
            late.add_api_route("/boats/{boat_id}", change_late, methods=["PUT"])
            async with running(create_app(settings, routers=[late], dependencies=[public])) as app:
                return await asyncio.gather(
                    *(ask(app, "PUT", "/boats/1", json=body(name), headers=headers) for name in "ab")
                )

        return meet

    @pytest.mark.parametrize(
        ("headers", "status", "code"),
        [
            ({"If-Match": '"1"'}, 412, "precondition_failed"),
            ({"If-Match": "*"}, 409, "edit_conflict"),
            ({}, 409, "edit_conflict"),
        ],
    )
    async def test_the_loser_is_told_at_the_commit(
        self,
        meet: Any,
        ask: Any,
        running: Any,
        database: Database,
        headers: dict[str, str],
        status: int,
        code: str,
    ) -> None:
        answers = await meet(ask, running, headers=headers)

        won, lost = sorted(answers, key=lambda answer: int(answer.status))
        assert (won.status, lost.status, lost.json["code"]) == (200, status, code)
        assert await name_of_boat(database) in {"a", "b"}

    async def test_a_repeatable_loser_runs_again_and_sees_the_winner(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        both, runs = asyncio.Barrier(2), 0

        async def change_late(boat: BoatWrite, session: SessionDep, if_match: IfMatchDep) -> int:
            nonlocal runs
            runs += 1
            is_first_run = runs <= 2
            stored = if_match.check(await find_boat(session, 1))
            if is_first_run:
                await both.wait()
            stored.name = boat.name
            return stored.version

        late = APIRouter()
        late.add_api_route("/boats/1", change_late, methods=["PUT"], dependencies=[repeatable])
        async with running(create_app(settings, routers=[late], dependencies=[public])) as app:
            answers = await asyncio.gather(
                *(ask(app, "PUT", "/boats/1", json=body(name), headers={"If-Match": '"1"'}) for name in "ab")
            )

        assert sorted(answer.status for answer in answers) == [200, 412]
        assert runs == 3


@pytest.mark.databases("sqlite")
class TestDescription:
    @pytest.fixture
    def paths(self, app: FastAPI) -> dict[str, Any]:
        document = app.openapi()
        validate(document)
        paths: dict[str, Any] = document["paths"]
        return paths

    @staticmethod
    def headers(operation: dict[str, Any]) -> dict[str, bool]:
        parameters = operation.get("parameters", [])
        return {given["name"]: given["required"] for given in parameters if given["in"] == "header"}

    def test_a_read_may_be_answered_304(self, paths: dict[str, Any]) -> None:
        for method in ("get", "head"):
            operation = paths["/boats/{boat_id}"][method]
            assert self.headers(operation) == {"If-None-Match": False}
            assert "content" not in operation["responses"]["304"]
            assert "ETag" in operation["responses"]["200"]["headers"]
            assert "412" not in operation["responses"]

    def test_a_guarded_change_needs_if_match(self, paths: dict[str, Any]) -> None:
        for method in ("patch", "delete"):
            operation = paths["/boats/{boat_id}"][method]
            assert self.headers(operation) == {"If-Match": True}
            for status in ("412", "428"):
                assert "application/problem+json" in operation["responses"][status]["content"]
        assert "ETag" in paths["/boats/{boat_id}"]["patch"]["responses"]["200"]["headers"]
        assert "headers" not in paths["/boats/{boat_id}"]["delete"]["responses"]["204"]

    def test_a_put_may_say_either(self, paths: dict[str, Any]) -> None:
        operation = paths["/boats/{boat_id}"]["put"]

        assert self.headers(operation) == {"If-Match": False, "If-None-Match": False}
        assert "412" in operation["responses"]
        assert "428" not in operation["responses"]

    def test_what_is_created_has_a_tag_and_no_condition(self, paths: dict[str, Any]) -> None:
        operation = paths["/boats"]["post"]

        assert self.headers(operation) == {}
        assert "ETag" in operation["responses"]["201"]["headers"]

    def test_a_route_without_conditions_has_none(self, paths: dict[str, Any]) -> None:
        operation = paths["/plain"]["get"]

        assert self.headers(operation) == {}
        assert "304" not in operation["responses"]
        assert "headers" not in operation["responses"]["200"]


@pytest.mark.databases("sqlite")
class TestElsewhere:
    async def test_an_installed_app_answers_the_same(
        self, settings: Settings, ask: Any, running: Any
    ) -> None:
        app = FastAPI()
        app.include_router(router)
        install(app, settings)

        async with running(app):
            read_answer = await ask(app, "GET", "/boats/1")
            known = {"if-none-match": read_answer.headers["etag"]}
            again = await ask(app, "GET", "/boats/1", headers=known)
            missing = await ask(app, "DELETE", "/boats/1")

        assert (read_answer.status, again.status, missing.status) == (200, 304, 428)

    async def test_an_app_without_backstay_is_told_so(self, ask: Any) -> None:
        app = FastAPI()
        app.include_router(router)

        with pytest.raises(Exception, match="need an app made by `create_app` or `install`"):
            await ask(app, "GET", "/own-tag")

    async def test_a_preflight_allows_the_headers(self, settings: Settings, ask: Any) -> None:
        http = settings.http.model_copy(update={"cors_origins": ("https://shop.example",)})
        app = create_app(settings.model_copy(update={"http": http}), routers=[router], dependencies=[public])
        asked = {
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "if-match, if-none-match",
        }

        answer = await ask(app, "OPTIONS", "/boats/1", headers=asked)

        assert (answer.status, answer.headers["access-control-allow-headers"]) == (
            200,
            "if-match, if-none-match",
        )

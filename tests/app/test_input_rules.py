"""What a request may look like before a route sees it, on apps of both kinds."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI, File, Form, Request, UploadFile
from httpx2 import ASGITransport, AsyncClient
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from sqlalchemy import MetaData
from starlette.responses import JSONResponse
from starlette.responses import Response as StarletteResponse

from backstay import create_app, install, public
from backstay.settings import HttpSettings, Settings

JSON = {"Content-Type": "application/json"}
router = APIRouter()


@router.post("/typed")
async def typed(thing: dict[str, Any]) -> dict[str, Any]:
    return thing


@router.post("/by-hand")
async def by_hand(request: Request) -> Any:
    return await request.json()


@router.post("/streamed")
async def streamed(request: Request) -> int:
    return sum([len(chunk) async for chunk in request.stream()])


@router.post("/form")
async def form(name: Annotated[str, Form()], other: Annotated[str, Form()] = "") -> str:
    return name


@router.post("/files")
async def files(files: Annotated[list[UploadFile], File()]) -> int:
    return len(files)


@router.get("/found")
async def found(name: str = "") -> str:
    return name


async def plain_route(request: Request) -> StarletteResponse:
    return JSONResponse(await request.json())


def with_routes(app: FastAPI) -> FastAPI:
    app.add_route("/starlette", plain_route, methods=["POST"])
    return app


@pytest.fixture
def metadata() -> MetaData:
    return MetaData()


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    http = HttpSettings(max_headers=20, max_header_bytes=2_000, max_form_fields=3, max_form_files=2)
    return with_routes(
        create_app(settings.model_copy(update={"http": http}), routers=[router], dependencies=[public])
    )


@pytest.fixture
async def caller(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
        yield client


async def send(app: FastAPI, path: str, content: bytes) -> tuple[int, Any]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
        response = await client.post(path, content=content, headers=JSON)
        return response.status_code, response.json()


ROUTES = ["/typed", "/by-hand", "/starlette"]


@pytest.mark.parametrize("path", [*ROUTES, "/streamed"])
@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        (b'{"a":1,"a":2}', 422, "repeated_name"),
        (b'{"a":18446744073709551616}', 422, "number_too_large"),
        (b'{"a":1e999}', 422, "number_too_large"),
        (b'{"a":0.1000000000000000055511151231257827}', 422, "number_too_precise"),
        (b'{"a":"\\u0000"}', 422, "nul_character"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, 422, "nested_too_deep"),
        (b'{"a":NaN}', 400, "malformed_json"),
        (b'{"a":"\\ud800"}', 400, "malformed_json"),
        (b'{"a":"\xff"}', 400, "malformed_json"),
        (b'\xef\xbb\xbf{"a":1}', 400, "malformed_json"),
        ('{"a":1}'.encode("utf-16"), 400, "malformed_json"),
        (b'{"a":1} {"a":1}', 400, "malformed_json"),
    ],
)
async def test_an_unclear_body_is_refused_however_it_is_read(
    app: FastAPI, path: str, text: bytes, status: int, code: str
) -> None:
    answered, problem = await send(app, path, text)

    assert (answered, problem["status"], problem["code"]) == (status, status, code)
    assert len(problem["requestId"]) == 32


@pytest.mark.parametrize("path", ROUTES)
async def test_a_clear_body_arrives_as_it_was_sent(app: FastAPI, path: str) -> None:
    sent = {"a": [1, 0.1, "ä\N{BLACK STAR}", None, {"b": 2**64 - 1}]}

    assert await send(app, path, json.dumps(sent).encode()) == (200, sent)


async def test_a_body_that_comes_in_pieces_is_read_as_one(caller: AsyncClient) -> None:
    async def pieces(text: bytes) -> AsyncIterator[bytes]:
        for sign in text:
            yield bytes([sign])

    clear = await caller.post("/typed", content=pieces(b'{"a":1,"b":2}'), headers=JSON)
    unclear = await caller.post("/typed", content=pieces(b'{"a":1,"a":2}'), headers=JSON)

    assert clear.json() == {"a": 1, "b": 2}
    assert unclear.status_code == 422


@pytest.mark.parametrize(
    "kind", ["application/problem+json; charset=utf-8", "text/json", " APPLICATION/JSON"]
)
async def test_every_kind_of_json_is_read_strictly(caller: AsyncClient, kind: str) -> None:
    response = await caller.post("/by-hand", content=b'{"a":1,"a":2}', headers={"Content-Type": kind})

    assert response.status_code == 422


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=8,
)
_texts = (
    st.builds(lambda value, is_ascii: json.dumps(value, ensure_ascii=is_ascii), _json, st.booleans())
    | st.text('[]{}",:\\\\u0de8-+.E \n')
    | st.text()
)
_bodies = st.builds(
    lambda text, encoding, cut: text.encode(encoding, "surrogatepass")[: len(text) - cut or None],
    _texts,
    st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-8-sig"]),
    st.sampled_from([0, 0, 0, 1, 5]),
)


@given(body=_bodies)
@settings_of_hypothesis(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_text_is_refused_or_can_be_given_back(app: FastAPI, body: bytes) -> None:
    for path in ROUTES[1:]:
        status, answered = await send(app, path, body)

        assert status in {200, 400, 422}
        if status == 200:
            assert answered == json.loads(body)


@pytest.mark.parametrize("path", ["/by-hand", "/starlette"])
@pytest.mark.parametrize(
    ("kind", "text"),
    [("application/json", b""), ("text/plain", b"{"), ("text/plain", b"\xff\xff"), ("x", b"[" * 100_000)],
)
async def test_what_a_route_cannot_read_by_hand_is_the_callers_matter(
    caller: AsyncClient, path: str, kind: str, text: bytes
) -> None:
    response = await caller.post(path, content=text, headers={"Content-Type": kind})

    assert (response.status_code, response.json()["code"]) == (400, "malformed_json")


async def test_json_that_the_service_reads_elsewhere_is_its_own_matter(settings: Settings) -> None:
    own = APIRouter()

    @own.post("/own")
    async def read_own() -> None:
        json.loads("{")

    assert (await send(create_app(settings, routers=[own], dependencies=[public]), "/own", b"{}"))[0] == 500


async def test_other_types_are_left_alone(caller: AsyncClient) -> None:
    for kind in ("application/octet-stream", "application/x-ndjson", "text/plain"):
        response = await caller.post("/streamed", content=b'{"a":1,"a":2}', headers={"Content-Type": kind})
        assert (response.status_code, response.json()) == (200, 13)


async def test_the_setting_switches_it_off(settings: Settings) -> None:
    http = HttpSettings(strict_json=False)
    app = create_app(settings.model_copy(update={"http": http}), routers=[router], dependencies=[public])

    assert await send(app, "/typed", b'{"a":1,"a":2}') == (200, {"a": 2})


@pytest.mark.parametrize(("setting", "status"), [(None, 200), (False, 200), (True, 422)])
async def test_an_installed_app_reads_strictly_only_when_it_is_told_to(
    settings: Settings, setting: bool | None, status: int
) -> None:
    app = FastAPI()
    app.include_router(router)
    install(app, settings.model_copy(update={"http": HttpSettings(strict_json=setting)}))

    assert (await send(app, "/typed", b'{"a":1,"a":2}'))[0] == status


async def test_the_allowed_depth_is_a_setting(settings: Settings) -> None:
    http = HttpSettings(max_json_depth=2)
    app = create_app(settings.model_copy(update={"http": http}), routers=[router], dependencies=[public])

    assert (await send(app, "/typed", b'{"a":[]}'))[0] == 200
    assert (await send(app, "/typed", b'{"a":[[]]}'))[0] == 422


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({f"X-{number}": "x" for number in range(10)}, 200),
        ({f"X-{number}": "x" for number in range(30)}, 431),
        ({"X-Long": "x" * 1_500}, 200),
        ({"X-Long": "x" * 2_500}, 431),
        ({"x" * 2_500: "x"}, 431),
    ],
)
async def test_headers_have_a_limit(caller: AsyncClient, headers: dict[str, str], status: int) -> None:
    response = await caller.get("/found", headers=headers)

    assert response.status_code == status
    if status == 431:
        assert response.json()["code"] == "request_header_fields_too_large"
        assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/found?name=%C3%A4", 200),
        ("/found?name=100%25", 200),
        ("/found?name=%", 200),
        ("/found?name=%00", 400),
        ("/found?name=%FF", 400),
        ("/found?name=%ED%A0%80", 400),
        ("/found?%C0%AF=1", 400),
        ("/found%00", 400),
        ("/found%FF", 400),
    ],
)
async def test_an_address_is_utf_8_without_nul(caller: AsyncClient, path: str, status: int) -> None:
    response = await caller.get(path)

    assert response.status_code == status
    if status == 400:
        assert response.json()["code"] == "malformed_address"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"name=%C3%A4", 200, None),
        (b"name=a+b%25", 200, None),
        (b"name=%00", 400, "malformed_form"),
        (b"name=%FF", 400, "malformed_form"),
        (b"name=\xff", 400, "malformed_form"),
        (b"name=1&other=2&other=3&other=4", 400, "bad_request"),
    ],
)
async def test_a_form_is_utf_8_without_nul_and_has_a_limit(
    caller: AsyncClient, content: bytes, status: int, code: str | None
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await caller.post("/form", content=content, headers=form)

    assert response.status_code == status
    if code is not None:
        assert response.json()["code"] == code


async def test_files_of_a_form_have_a_limit(caller: AsyncClient) -> None:
    for count, status in ((2, 200), (3, 400)):
        several = [("files", (f"{number}.txt", b"x")) for number in range(count)]
        assert (await caller.post("/files", files=several)).status_code == status


async def test_an_installed_app_keeps_its_own_limits(settings: Settings) -> None:
    app = FastAPI()
    app.include_router(router)
    install(app, settings.model_copy(update={"http": HttpSettings(max_headers=1, max_header_bytes=1)}))

    async with AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
        assert (await client.get("/found?name=%00")).json() == "\0"

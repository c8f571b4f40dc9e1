"""Every error becomes a problem document, in the caller's terms and in nobody's secrets."""

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, ClassVar, Literal

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.testclient import TestClient
from pydantic import AfterValidator, AliasChoices, BaseModel, Field, Secret, SecretStr, model_validator
from starlette.datastructures import State
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from typing_extensions import TypeAliasType, TypedDict

from backstay.app.problems import (
    FieldProblem,
    Problem,
    add_problem_handlers,
    problem_of,
    render_problem,
)
from backstay.app.schemas import InputSchema, Schema
from backstay.errors import AppError, ConflictError, InvalidInputError, NotFoundError, UnavailableError
from backstay.redaction import Sensitive


class OutOfStockError(AppError):
    status: ClassVar[int] = 409
    title: ClassVar[str] = "Out of Stock"
    code: ClassVar[str] = "out_of_stock"


def answer(raised: Exception, *, method: str = "GET", **options: Any) -> Any:
    """Return what an app answers when its only route raises."""
    return TestClient(make_app(raised, **options), raise_server_exceptions=False).request(method, "/")


def make_app(raised: Exception, **options: Any) -> FastAPI:
    app = FastAPI()

    @app.api_route("/", methods=["GET", "HEAD"])
    async def read() -> None:
        raise raised

    add_problem_handlers(app, **options)
    return app


def make_request(app: FastAPI | None = None, *, method: str = "GET") -> Request:
    scope = {"type": "http", "method": method, "path": "/", "headers": [], "backstay.request_id": "r-1"}
    return Request(scope if app is None else {**scope, "app": app})


# ---------------------------------------------------------------- what an error says


def test_an_app_error_says_what_its_class_and_its_raiser_say() -> None:
    response = answer(
        OutOfStockError("There are 2 left.", headers={"Retry-After": "60"}, sku_code="A-1", left=2)
    )

    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "60"
    assert response.json() == {
        "type": "about:blank",
        "title": "Out of Stock",
        "status": 409,
        "detail": "There are 2 left.",
        "code": "out_of_stock",
        "skuCode": "A-1",
        "left": 2,
    }


def test_an_app_error_without_words_has_no_detail() -> None:
    assert "detail" not in answer(NotFoundError()).json()


def test_an_app_error_may_point_at_fields() -> None:
    wrong = FieldProblem(loc=["body", "sku"], type="discontinued", message="No longer sold")

    problem = answer(InvalidInputError("One line is wrong.", errors=[wrong])).json()

    assert problem["errors"] == [
        {"loc": ["body", "sku"], "type": "discontinued", "message": "No longer sold"}
    ]


def test_extensions_cannot_replace_what_the_document_says_of_itself() -> None:
    problem = answer(ConflictError("Taken.", status=200, requestId="x", request_id="x", errors="none")).json()

    assert (problem["status"], problem["code"], problem["detail"]) == (409, "conflict", "Taken.")
    assert not {"requestId", "errors"} & problem.keys()


def test_an_extension_may_name_the_type_and_the_instance() -> None:
    problem = answer(ConflictError(type="https://shop.example/problems/taken", instance="/orders/7")).json()

    assert problem["type"] == "https://shop.example/problems/taken"
    assert problem["instance"] == "/orders/7"


def test_an_extension_that_json_cannot_say_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    problem = answer(ConflictError("Taken.", ratio=float("nan"))).json()

    assert problem["detail"] == "Taken."
    assert "ratio" not in problem
    assert "JSON cannot say" in caplog.text


def test_a_method_that_is_not_there_is_answered_with_all_that_are() -> None:
    app, router = FastAPI(), APIRouter(prefix="/v1")
    add_problem_handlers(app)

    @router.get("/things/{thing_id}")
    @router.patch("/things/{thing_id}")
    async def some(thing_id: int) -> None: ...

    @router.delete("/things/{thing_id}")
    async def remove(thing_id: int) -> None: ...

    @router.get("/others")
    async def other() -> None: ...

    app.include_router(router)

    assert TestClient(app).put("/v1/things/1").headers["allow"] == "DELETE, GET, PATCH"
    assert TestClient(app, root_path="/shop").put("/v1/things/1").headers["allow"] == "DELETE, GET, PATCH"
    assert TestClient(app).put("/v1/others").headers["allow"] == "GET"


def test_what_is_secret_by_its_type_or_name_is_masked_in_an_extension() -> None:
    class Account(Schema):
        name: str
        email: Annotated[str, Sensitive]

    account = Account(name="Ada", email="hunter2")
    response = answer(
        ConflictError(account=account, accounts=[{"first": account}], pin=7, word=SecretStr("hunter2"))
    )

    shown = {"name": "Ada", "email": "[redacted]"}
    assert "hunter2" not in response.text
    assert response.json()["account"] == shown
    assert response.json()["accounts"] == [{"first": shown}]
    assert response.json()["pin"] == response.json()["word"] == "[redacted]"


def test_an_extension_may_be_a_date() -> None:
    assert answer(ConflictError(until=date(2026, 1, 2))).json()["until"] == "2026-01-02"


@pytest.mark.parametrize(
    ("status", "code", "title"),
    [
        (400, "bad_request", "Bad Request"),
        (401, "unauthenticated", "Unauthorized"),
        (403, "permission_denied", "Forbidden"),
        (404, "not_found", "Not Found"),
        (409, "conflict", "Conflict"),
        (413, "content_too_large", "Content Too Large"),
        (418, "i_m_a_teapot", "I'm a Teapot"),
        (422, "invalid_input", "Unprocessable Content"),
        (429, "rate_limited", "Too Many Requests"),
        (499, "unknown_error", "Unknown Error"),
        (500, "internal_error", "Internal Server Error"),
        (503, "unavailable", "Service Unavailable"),
        (504, "deadline_exceeded", "Gateway Timeout"),
    ],
)
def test_an_http_exception_has_the_code_and_title_of_its_status(status: int, code: str, title: str) -> None:
    problem = answer(HTTPException(status, "Because.")).json()

    assert (problem["status"], problem["code"], problem["title"]) == (status, code, title)
    assert problem["detail"] == "Because."


def test_an_http_exception_keeps_its_headers() -> None:
    response = answer(
        HTTPException(401, headers={"WWW-Authenticate": "Bearer", "Content-Type": "text/plain"})
    )

    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"


def test_an_http_exception_may_bring_members_of_the_document() -> None:
    detail = {"code": "no_stock", "detail": "None left.", "sku_code": "A-1", "status": 1, "title": 5}

    problem = answer(HTTPException(409, detail)).json()

    assert problem["code"] == "no_stock"
    assert problem["detail"] == "None left."
    assert problem["skuCode"] == "A-1"
    assert (problem["status"], problem["title"]) == (409, "Conflict")


def test_an_http_exception_may_bring_anything_that_json_can_say() -> None:
    assert answer(HTTPException(409, ["a", 1])).json()["details"] == ["a", 1]


def test_starlettes_own_exceptions_are_problems_too() -> None:
    response = TestClient(make_app(StarletteHTTPException(404))).post("/")

    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert response.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_stays_without_one(status: int) -> None:
    response = answer(HTTPException(status, headers={"ETag": "x"}))

    assert (response.status_code, response.content, response.headers["etag"]) == (status, b"", "x")
    assert "content-type" not in response.headers


def test_a_redirect_is_no_problem() -> None:
    response = TestClient(make_app(HTTPException(307, headers={"Location": "/x"}))).get(
        "/", follow_redirects=False
    )

    assert (response.status_code, response.content, response.headers["location"]) == (307, b"", "/x")


def test_head_has_the_headers_of_get_and_no_body() -> None:
    got, asked = answer(NotFoundError("No such user.")), answer(NotFoundError("No such user."), method="HEAD")

    assert asked.content == b""
    assert asked.status_code == 404
    assert asked.headers["content-type"] == "application/problem+json"
    assert asked.headers["content-length"] == got.headers["content-length"] != "0"


def test_the_problem_names_the_request() -> None:
    class Naming:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            scope["backstay.request_id"] = "r-7"
            await self.app(scope, receive, send)

    app = make_app(NotFoundError())
    app.add_middleware(Naming)

    assert TestClient(app).get("/").json()["requestId"] == "r-7"


def test_a_bug_is_a_bare_500() -> None:
    facts = problem_of(RuntimeError("SELECT secret FROM users"), make_request())

    assert facts.headers == {}
    assert facts.problem.model_dump(exclude_none=True) == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "code": "internal_error",
        "requestId": "r-1",
    }


def test_a_group_of_one_is_that_one() -> None:
    group = ExceptionGroup("tasks", [ExceptionGroup("inner", [NotFoundError("No such user.")])])

    assert problem_of(group, make_request()).problem.status == 404
    assert (
        problem_of(ExceptionGroup("two", [NotFoundError(), KeyError()]), make_request()).problem.status == 500
    )


# ---------------------------------------------------------------- shapes and handlers


def old_contract(problem: Problem, request: Request) -> Response:
    return JSONResponse({"error": problem.code, "path": request.url.path}, status_code=problem.status)


def test_the_shape_of_error_bodies_is_one_replaceable_function() -> None:
    response = answer(UnavailableError(), shape=old_contract)

    assert response.status_code == 503
    assert response.json() == {"error": "unavailable", "path": "/"}
    assert response.headers["retry-after"] == "1"


def test_a_shape_may_stream() -> None:
    def shape(problem: Problem, request: Request) -> Response:
        return StreamingResponse(iter([problem.code]), status_code=problem.status)

    assert answer(NotFoundError(), shape=shape).text == "not_found"


def test_a_shape_that_fails_is_replaced_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def shape(problem: Problem, request: Request) -> Response:
        raise LookupError("shape")

    response = answer(NotFoundError(), shape=shape)

    assert response.status_code == 404
    assert response.json()["code"] == "not_found"
    assert "problem shape failed" in caplog.text


def test_handlers_of_the_service_are_kept() -> None:
    app = make_app(OutOfStockError())

    @app.exception_handler(OutOfStockError)
    async def teapot(request: Request, error: Exception) -> Response:
        return PlainTextResponse("ours", status_code=418)

    assert TestClient(app).get("/").text == "ours"


def test_handlers_that_were_there_first_are_kept() -> None:
    async def ours(request: Request, error: Exception) -> Response:
        return PlainTextResponse("ours")

    app = FastAPI(exception_handlers={StarletteHTTPException: ours, AppError: ours})
    add_problem_handlers(app)

    assert TestClient(app).get("/nothing").text == "ours"


async def test_an_error_outside_of_the_app_is_answered_like_one_inside() -> None:
    app = FastAPI()
    add_problem_handlers(app, shape=old_contract)

    response = await render_problem(make_request(app), UnavailableError())

    assert response.status_code == 503
    assert response.body == b'{"error":"unavailable","path":"/"}'


async def test_an_error_without_an_app_is_a_problem() -> None:
    assert (await render_problem(make_request(), KeyError())).media_type == "application/problem+json"


async def say_async(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{type(error).__name__} async")


def say(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{type(error).__name__} sync")


class Speaker:
    async def __call__(self, request: Request, error: Exception) -> Response:
        return PlainTextResponse("object")


def say_later(request: Request, error: Exception) -> Any:
    return say_async(request, error)


@pytest.mark.parametrize(
    ("key", "handler", "raised", "said"),
    [
        (ValueError, say_async, UnicodeError(), b"UnicodeError async"),
        (ValueError, say, UnicodeError(), b"UnicodeError sync"),
        (ValueError, Speaker(), ValueError(), b"object"),
        (ValueError, say_later, ValueError(), b"ValueError async"),
        (Exception, say, ValueError(), b"ValueError sync"),
        (500, say, ValueError(), b"ValueError sync"),
        (404, say, HTTPException(404), b"HTTPException sync"),
        (NotFoundError, say, ExceptionGroup("tasks", [NotFoundError()]), b"NotFoundError sync"),
    ],
)
async def test_handlers_of_the_service_are_asked_first(
    key: Any, handler: Any, raised: Exception, said: bytes
) -> None:
    app = FastAPI(exception_handlers={key: handler})

    assert (await render_problem(make_request(app), raised)).body == said


async def test_a_handler_for_500_is_not_asked_about_other_answers() -> None:
    handlers: Any = {500: say}
    app = FastAPI(exception_handlers=handlers)

    assert (await render_problem(make_request(app), NotFoundError())).status_code == 404


async def test_a_handler_without_an_answer_leaves_it_to_us() -> None:
    handlers: Any = {ValueError: lambda request, error: None}
    app = FastAPI(exception_handlers=handlers)

    assert (await render_problem(make_request(app), ValueError())).status_code == 500


async def test_a_handler_that_fails_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request, error: Exception) -> Response:
        raise LookupError("secret")

    handlers: Any = {ValueError: fail}
    response = await render_problem(make_request(FastAPI(exception_handlers=handlers)), ValueError())

    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)
    assert "The handler for ValueError failed." in caplog.text


def test_a_refused_socket_is_told_nothing_of_what_it_sent() -> None:
    app = FastAPI()
    add_problem_handlers(app)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, number: int) -> None:
        await websocket.accept()

    with (
        pytest.raises(WebSocketDisconnect) as closed,
        TestClient(app).websocket_connect("/socket?number=secret"),
    ):
        pass

    assert (closed.value.code, closed.value.reason) == (1008, "Invalid input")


# ---------------------------------------------------------------- where and why input is wrong


def wrong(model: Any, sent: object) -> list[tuple[list[str | int], str, str]]:
    """Return what a route with this body answers about it."""
    app = FastAPI()
    add_problem_handlers(app)

    async def create(body: Annotated[Any, Body()]) -> None: ...

    create.__annotations__["body"] = model
    app.post("/")(create)
    problem = TestClient(app).post("/", json=sent).json()
    return [(error["loc"], error["type"], error["message"]) for error in problem["errors"]]


def refuse(message: str) -> Callable[[str], str]:
    def validate(value: str) -> str:
        raise ValueError(message.format(value=value, half=value[: len(value) // 2]))

    return validate


def said_about(message: str, sent: object, **others: object) -> str:
    class Thing(BaseModel):
        word: Annotated[str, AfterValidator(refuse(message))]
        other: object = None

    return wrong(Thing, {"word": sent, **others})[0][2]


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("must be a palindrome", "hello"),
        ("must have an @", "jane"),
        ("must not be empty", ""),
        ("must be after 2020", "19"),
    ],
)
def test_a_validators_own_words_are_shown(message: str, sent: str) -> None:
    assert said_about(message, sent) == message


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("{value!r} is taken", "hunter2"),
        ("HUNTER2 is taken", "hunter2"),
        ("{half} is not allowed", "example.org@x"),
        ("7 is too small", "7"),
        ("no user jane", "Jane Doe"),
        ("", "anything"),
        ("too long", "x " * 10_000),
    ],
)
def test_a_validators_words_are_hidden_when_they_repeat_the_value(message: str, sent: str) -> None:
    assert said_about(message, sent) == "Invalid value"


def test_a_validators_words_are_hidden_when_they_repeat_another_value() -> None:
    assert said_about("must differ from hunter2", "x", other={"a": ["hunter2"]}) == "Invalid value"


def test_a_validators_words_are_hidden_when_there_is_too_much_to_compare() -> None:
    assert said_about("must be a palindrome", "hello", other=list(range(1000))) == "Invalid value"


def test_a_validators_words_are_hidden_when_they_repeat_a_body_that_was_not_read() -> None:
    app = FastAPI()
    add_problem_handlers(app)

    @app.post("/")
    async def create(
        word: Annotated[str, AfterValidator(refuse("the body was hunter2"))], body: Annotated[bytes, Body()]
    ) -> None: ...

    problem = (
        TestClient(app).post("/?word=x", content=b"hunter2", headers={"Content-Type": "text/plain"}).json()
    )

    assert problem["errors"] == [
        {"loc": ["query", "word"], "type": "value_error", "message": "Invalid value"}
    ]


def test_a_model_validators_words_may_name_fields() -> None:
    class Trip(InputSchema):
        leaves_on: date
        returns_on: date

        @model_validator(mode="after")
        def _order(self) -> "Trip":
            raise ValueError("returnsOn lies before leavesOn")

    assert wrong(Trip, {"leavesOn": "2026-02-01", "returnsOn": "2026-01-01"}) == [
        (["body"], "value_error", "returnsOn lies before leavesOn")
    ]


def test_a_model_validators_words_may_not_name_unknown_fields() -> None:
    class Loose(BaseModel):
        name: str = ""

        @model_validator(mode="before")
        @classmethod
        def _refuse(cls, value: dict[str, object]) -> dict[str, object]:
            raise ValueError(f"odd: {', '.join(value)}")

    assert wrong(Loose, {"name": "x", "hunter2": {"deep": 1}})[0][2] == "Invalid value"


def test_an_app_error_in_a_validator_is_always_shown() -> None:
    def refuse_word(value: str) -> str:
        raise InvalidInputError("The word is used up.")

    class Thing(BaseModel):
        word: Annotated[str, AfterValidator(refuse_word)]

    app = FastAPI()
    add_problem_handlers(app)

    @app.post("/")
    async def create(thing: Thing) -> None: ...

    response = TestClient(app).post("/", json={"word": "used"})

    assert response.status_code == 422
    assert response.json()["detail"] == "The word is used up."


@pytest.mark.parametrize("field", ["password", "apiKey", "card", "pin", "phone", "keys"])
def test_of_a_sensitive_field_only_the_place_and_the_kind_are_said(field: str) -> None:
    class Thing(InputSchema):
        password: Annotated[str, Field(max_length=3)] = ""
        api_key: int = 0
        card: SecretStr = SecretStr("")
        pin: SecretStr | None = None
        phone: Annotated[int, Sensitive] = 0
        keys: dict[str, Secret[int]] | None = None

    assert {message for _, _, message in wrong(Thing, {field: {"name": [4242]}})} == {"Invalid value"}


def test_a_missing_sensitive_field_is_said_to_be_missing() -> None:
    class Login(InputSchema):
        password: SecretStr

    assert wrong(Login, {}) == [(["body", "password"], "missing", "Field required")]


def test_fields_go_by_the_name_that_callers_use() -> None:
    class Thing(Schema):
        created_at: date
        size: Annotated[int, Field(validation_alias=AliasChoices("size", "length"))]

    assert [loc for loc, _, _ in wrong(Thing, {"created_at": "x", "length": "x"})] == [
        ["body", "createdAt"],
        ["body", "size"],
    ]


def test_an_unknown_field_is_not_named_but_the_one_that_was_meant_is() -> None:
    class Thing(InputSchema):
        created_at: date = date(2026, 1, 1)

    assert wrong(Thing, {"createdAtt": "x"}) == [
        (["body"], "extra_forbidden", "Unknown field. Did you mean 'createdAt'?")
    ]


class Pet(BaseModel):
    name: int


Pets = TypeAliasType("Pets", list[Pet])


class Kennel(TypedDict):
    pets: Pets


def test_aliases_of_types_are_followed() -> None:
    assert wrong(Kennel, {"pets": [{"name": "x"}]})[0][0] == ["body", "pets", 0, "name"]


def test_a_tag_is_no_part_of_the_place() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"]
        lives: int

    class Dog(BaseModel):
        kind: Literal["dog"]

    class Thing(BaseModel):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]

    assert wrong(Thing, {"pet": {"kind": "cat", "lives": "x"}})[0][0] == ["body", "pet", "lives"]


def test_at_most_100_errors_are_listed() -> None:
    assert len(wrong(list[int], ["x"] * 1000)) == 100


def test_parameters_of_dependencies_of_included_routers_are_known() -> None:
    async def tenant(tenant_id: Annotated[int, Query(alias="tenant")]) -> int:
        return tenant_id

    app, router = FastAPI(), APIRouter()

    @router.get("/")
    async def read() -> None: ...

    app.include_router(router, prefix="/v1", dependencies=[Depends(tenant)])
    add_problem_handlers(app)

    assert TestClient(app).get("/v1/?tenant=x").json()["errors"][0]["loc"] == ["query", "tenant"]


def test_errors_that_a_service_raises_itself_are_described_as_far_as_the_schema_knows() -> None:
    entries = [
        {"type": "odd", "loc": ("body", "hunter2"), "msg": "Odd"},
        {"type": "odd", "loc": ("query", "hunter2"), "msg": "Odd"},
        {"type": "odd", "loc": ("somewhere",)},
        {"type": "extra_forbidden"},
        "nothing",
    ]

    problem = answer(RequestValidationError(entries)).json()

    assert problem["errors"] == [
        {"loc": ["body", "*"], "type": "odd", "message": "Odd"},
        {"loc": ["query", "*"], "type": "odd", "message": "Odd"},
        {"loc": ["*"], "type": "odd", "message": "Invalid value"},
        {"loc": ["*"], "type": "extra_forbidden", "message": "Invalid value"},
    ]


def test_input_errors_without_a_route_are_described_too() -> None:
    error = RequestValidationError([{"type": "missing", "loc": ("query", "x"), "msg": "Field required"}])

    assert problem_of(error, make_request()).problem.errors == [
        FieldProblem(loc=["query", "*"], type="missing", message="Field required")
    ]


def test_the_app_keeps_its_shape_in_its_state() -> None:
    app = make_app(NotFoundError())

    assert isinstance(app.state, State)
    assert callable(app.state.backstay_problem_shape)

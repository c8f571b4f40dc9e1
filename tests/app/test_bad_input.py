"""Bad input never becomes a 500, every error is a problem document, and nothing that the caller sent is in
it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from fastapi import Cookie, Depends, FastAPI, Form, Header, HTTPException, Path, Query, UploadFile
from fastapi.security import HTTPBearer
from fastapi.testclient import TestClient
from pydantic import (
    AnyUrl,
    BaseModel,
    ConfigDict,
    EmailStr,
    Field,
    Json,
    RootModel,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from backstay.app.problems import add_problem_handlers
from backstay.app.schemas import InputSchema, PageDep, PatchSchema, SortParams, sort_by
from backstay.redaction import Sensitive

CANARY = "c4nary9x"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(InputSchema):
    kind: Literal["cat"]
    lives_left: int


class Dog(InputSchema):
    kind: Literal["dog"]
    name: Annotated[str, Field(max_length=4)]


class Point(TypedDict):
    x: int
    y: int


class Pair(NamedTuple):
    left: int
    right: int


@dataclass
class Box:
    width: int


@pydantic_dataclass(config=ConfigDict(extra="forbid"))
class Crate:
    height: int


class Labels(RootModel[dict[str, int]]):
    pass


class Thing(InputSchema):
    name: Annotated[str, Field(max_length=5)] = "thing"
    age: int = 1
    price: Decimal = Decimal(1)
    colour: Colour = Colour.RED
    shape: Literal["round", "square"] = "round"
    code: Annotated[str, Field(pattern="^[A-Z]+$")] = "A"
    thing_id: UUID = UUID(int=0)
    seen_at: datetime = datetime(2026, 1, 1)
    takes: timedelta = timedelta(0)
    email: EmailStr | None = None
    site: AnyUrl | None = None
    raw: Json[int] | None = None
    password: SecretStr = SecretStr("")
    phone: Annotated[str, Sensitive, Field(max_length=3)] = ""
    tags: list[int] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict)
    by_number: dict[int, int] = Field(default_factory=dict)
    nested: dict[str, list[Dog]] = Field(default_factory=dict)
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    either: int | list[int] | Dog = 0
    point: Point | None = None
    pair: Pair | None = None
    box: Box | None = None
    crate: Crate | None = None
    labels: Labels | None = None
    children: list["Thing"] = Field(default_factory=list)
    nickname: str = ""
    rank: str = ""
    motto: str = ""

    @field_validator("nickname")
    @classmethod
    def _echo(cls, value: str) -> str:
        if value:
            raise ValueError(f"{value!r} is taken")
        return value

    @field_validator("rank")
    @classmethod
    def _assert(cls, value: str) -> str:
        assert not value, f"no such rank: {value.upper()}"
        return value

    @field_validator("motto")
    @classmethod
    def _custom(cls, value: str) -> str:
        if value:
            raise PydanticCustomError("motto", "{said} was said before", {"said": value})
        return value

    @model_validator(mode="after")
    def _compare(self) -> "Thing":
        if self.age == 99:
            raise ValueError(f"nobody with the password {self.password.get_secret_value()} is 99")
        return self


class Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = 1


class Renamed(PatchSchema):
    name: Annotated[str, Field(max_length=5)] = ""


def make_app() -> FastAPI:  # noqa: C901  # one route for each kind of input
    app = FastAPI()
    add_problem_handlers(app)

    @app.post("/things")
    async def create(thing: Thing) -> dict[str, bool]:
        return {"ok": True}

    @app.post("/several")
    async def create_two(first: Cat, second: Dog) -> dict[str, bool]:
        return {"ok": True}

    @app.post("/many")
    async def create_many(things: list[Thing]) -> dict[str, bool]:
        return {"ok": True}

    @app.patch("/things/{thing_id}")
    async def rename(thing_id: UUID, change: Renamed) -> dict[str, bool]:
        return {"ok": True}

    @app.get("/things/{number}")
    async def read(
        number: Annotated[int, Path(le=10)],
        x_level: Annotated[int, Header()] = 1,
        theme: Annotated[Colour, Cookie()] = Colour.RED,
    ) -> dict[str, bool]:
        return {"ok": True}

    @app.get("/things")
    async def find(
        page: PageDep,
        sort: Annotated[SortParams, sort_by("name", "created_at")],
        since: datetime | None = None,
        colours: Annotated[list[Colour], Query()] = [],  # noqa: B006
    ) -> dict[str, bool]:
        return {"ok": True}

    @app.get("/filtered")
    async def filtered(filters: Annotated[Filters, Query()]) -> dict[str, bool]:
        return {"ok": True}

    @app.post("/forms")
    async def fill(name: Annotated[str, Form(max_length=3)], age: Annotated[int, Form()]) -> dict[str, bool]:
        return {"ok": True}

    @app.post("/files")
    async def upload(file: UploadFile) -> dict[str, bool]:
        return {"ok": True}

    @app.get("/mine", dependencies=[Depends(HTTPBearer())])
    async def mine() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/gone")
    async def gone() -> dict[str, bool]:
        raise HTTPException(410)

    return app


client = TestClient(make_app(), raise_server_exceptions=False)

JSON = {"Content-Type": "application/json"}

Request = tuple[str, str, dict[str, Any]]


def thing(**fields: object) -> Request:
    return ("POST", "/things", {"json": fields})


def body(content: bytes, **headers: str) -> Request:
    return ("POST", "/things", {"content": content, "headers": {**JSON, **headers}})


SECRET = CANARY.encode()

CORPUS: dict[str, Request] = {
    # positions in a body
    "unknown field": thing(**{CANARY: 1}),
    "unknown field with a canary value": thing(unknown=CANARY),
    "unknown field of a child": thing(children=[{CANARY: CANARY}]),
    "unknown field, deep": thing(children=[{"children": [{"children": [{CANARY: 1}]}]}]),
    "text too long": thing(name=CANARY),
    "text as integer": thing(age=CANARY),
    "list as text": thing(name=[CANARY]),
    "object as text": thing(name={CANARY: CANARY}),
    "null as text": thing(name=None, nickname=CANARY),
    "text as decimal": thing(price=CANARY),
    "unknown enum": thing(colour=CANARY),
    "unknown literal": thing(shape=CANARY),
    "pattern": thing(code=CANARY),
    "uuid": thing(thingId=CANARY),
    "uuid by its Python name": thing(thing_id=CANARY),
    "uuid with one odd sign": thing(thingId="0000000000000000000000000000000\N{BLACK STAR}"),
    "datetime": thing(seenAt=CANARY),
    "duration": thing(takes=CANARY),
    "email": thing(email=CANARY),
    "email with odd signs": thing(email=f"{CANARY} {CANARY}@{CANARY}"),
    "url": thing(site=f"{CANARY}"),
    "url with a bad port": thing(site=f"https://{CANARY}:port/"),
    "json in json": thing(raw=f'{{"{CANARY}'),
    "secret of the wrong type": thing(password={CANARY: CANARY}),
    "sensitive text too long": thing(phone=CANARY),
    "list item": thing(tags=[1, 2, CANARY]),
    "mapping key": thing(counts={CANARY: "x"}),
    "mapping value": thing(counts={"a": CANARY}),
    "number as mapping key": thing(byNumber={CANARY: 1}),
    "mapping to models": thing(nested={CANARY: [{"kind": "dog", "name": CANARY}]}),
    "mapping to unknown fields": thing(nested={CANARY: [{"kind": "dog", "name": "x", CANARY: 1}]}),
    "unknown tag": thing(pet={"kind": CANARY}),
    "missing tag": thing(pet={CANARY: CANARY}),
    "tag of the wrong type": thing(pet={"kind": [CANARY]}),
    "known tag, bad field": thing(pet={"kind": "cat", "livesLeft": CANARY}),
    "known tag, unknown field": thing(pet={"kind": "cat", "livesLeft": 1, CANARY: CANARY}),
    "no member of a union": thing(either=CANARY),
    "member of a union": thing(either=[CANARY]),
    "model in a union": thing(either={"kind": CANARY, CANARY: CANARY}),
    "typed dict": thing(point={"x": CANARY}),
    "named tuple": thing(pair=[1, CANARY]),
    "named tuple too long": thing(pair=[1, 2, CANARY]),
    "dataclass": thing(box={"width": CANARY}),
    "dataclass with an unknown field": thing(crate={"height": 1, CANARY: 1}),
    "root model": thing(labels={CANARY: CANARY}),
    "validator that echoes": thing(nickname=CANARY),
    "assertion that echoes in capitals": thing(rank=CANARY),
    "custom error that echoes": thing(motto=CANARY),
    "model validator that echoes another field": thing(age=99, password=CANARY),
    "list as body": ("POST", "/things", {"json": [CANARY]}),
    "text as body": ("POST", "/things", {"json": CANARY}),
    "one body of two": ("POST", "/several", {"json": {"first": {"kind": CANARY}, CANARY: 1}}),
    "list of bodies": ("POST", "/many", {"json": [{"name": CANARY}] * 300}),
    "object instead of a list": ("POST", "/many", {"json": {CANARY: CANARY}}),
    "patch": ("PATCH", f"/things/{UUID(int=1)}", {"json": {"name": CANARY}}),
    "patch with null": ("PATCH", f"/things/{UUID(int=1)}", {"json": {"name": None}}),
    # bodies that are no JSON
    "cut off": body(b'{"name": "' + SECRET),
    "garbage": body(SECRET),
    "empty": body(b""),
    "single quotes": body(b"{'name': '" + SECRET + b"'}"),
    "trailing comma": body(b'{"name": "' + SECRET + b'",}'),
    "invalid UTF-8": body(b'{"name": "\xff' + SECRET + b'"}'),
    "UTF-16": body(('{"name": "' + CANARY + '"}').encode("utf-16")),
    "lone surrogate as a name": body(b'{"\\ud800' + SECRET + b'": 1}'),
    "lone surrogate as a value": body(b'{"age": "\\ud800' + SECRET + b'"}'),
    "NUL in a name": body(b'{"\\u0000' + SECRET + b'": 1}'),
    "deep list": body(b"[" * 100_000),
    "deep object": body(b'{"a":' * 100_000 + b'"' + SECRET + b'"' + b"}" * 100_000),
    "endless integer": body(b'{"age": ' + b"9" * 5_000 + b"}"),
    "NaN": body(b'{"age": NaN, "nickname": "' + SECRET + b'"}'),
    "infinity": body(b'{"age": 1e999, "nickname": "' + SECRET + b'"}'),
    "no content type": ("POST", "/things", {"content": b'{"name": "' + SECRET + b'"}'}),
    "wrong content type": ("POST", "/things", {"content": SECRET, "headers": {"Content-Type": "text/plain"}}),
    "canary as content type": ("POST", "/things", {"content": b"{}", "headers": {"Content-Type": CANARY}}),
    # other positions
    "path": ("GET", f"/things/{CANARY}", {}),
    "path too large": ("GET", "/things/11", {"headers": {"X-Canary": CANARY}}),
    "path with a line break": ("GET", f"/things/{CANARY}%0d%0aX-Evil:%20{CANARY}", {}),
    "uuid in a path": ("PATCH", f"/things/{CANARY}", {"json": {}}),
    "header": ("GET", "/things/1", {"headers": {"X-Level": CANARY}}),
    "cookie": ("GET", "/things/1", {"headers": {"Cookie": f"theme={CANARY}"}}),
    "unknown sort key": ("GET", f"/things?sort={CANARY}", {}),
    "descending unknown sort key": ("GET", f"/things?sort=-{CANARY},name", {}),
    "repeated sort key": ("GET", "/things?sort=name,-name", {}),
    "sort key by its Python name": ("GET", f"/things?sort=created_at&{CANARY}=1", {}),
    "many sort keys": ("GET", f"/things?sort={',name' * 1000}", {}),
    "page": ("GET", f"/things?page={CANARY}", {}),
    "page zero": ("GET", f"/things?page=0&{CANARY}={CANARY}", {}),
    "page too deep": ("GET", "/things?page=1000&size=100", {}),
    "page of infinite depth": ("GET", f"/things?page={'9' * 400}", {}),
    "size too large": ("GET", "/things?size=101", {}),
    "datetime in a query": ("GET", f"/things?since={CANARY}", {}),
    "enum list in a query": ("GET", f"/things?colours=red&colours={CANARY}", {}),
    "unknown parameter": ("GET", f"/filtered?{CANARY}=1", {}),
    "unknown parameter with a canary value": ("GET", f"/filtered?limits={CANARY}", {}),
    "form field": ("POST", "/forms", {"data": {"name": CANARY, "age": CANARY}}),
    "missing form field": ("POST", "/forms", {"data": {CANARY: CANARY}}),
    "broken form": (
        *("POST", "/forms"),
        {"content": SECRET, "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ),
    "text instead of a file": ("POST", "/files", {"data": {"file": CANARY}}),
    "file under another name": ("POST", "/files", {"files": {CANARY: (CANARY, SECRET)}}),
    # no route, no method, no rights
    "unknown path": ("GET", f"/{CANARY}", {}),
    "unknown path with a query": ("GET", f"/nothing?{CANARY}={CANARY}", {}),
    "method": ("DELETE", f"/things?{CANARY}", {}),
    "unknown method": (CANARY.upper(), "/things", {}),
    "no token": ("GET", "/mine", {"headers": {"X-Token": CANARY}}),
    "wrong scheme": ("GET", "/mine", {"headers": {"Authorization": f"{CANARY} {CANARY}"}}),
    "gone": ("GET", f"/gone?{CANARY}", {}),
}


@pytest.mark.parametrize("name", CORPUS)
def test_bad_input_is_answered_with_a_problem_that_does_not_repeat_it(name: str) -> None:
    method, url, options = CORPUS[name]

    response = client.request(method, url, **options)

    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert CANARY not in (response.text + repr(response.headers)).casefold()
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert problem["code"]


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(CORPUS) >= 60

"""The shapes on the wire: camelCase, strict where a caller writes, limited where a caller asks for much."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import MISSING, ValidationError

from backstay.app.problems import add_problem_handlers
from backstay.app.schemas import (
    InputSchema,
    Page,
    PageDep,
    PageParams,
    PatchSchema,
    Schema,
    SortKey,
    SortParams,
    sort_by,
)
from backstay.errors import ConfigurationError


class UserRead(Schema):
    user_id: int
    first_name: str


class UserCreate(InputSchema):
    first_name: str


class UserPatch(PatchSchema):
    first_name: str | MISSING = MISSING
    nick_name: str | MISSING | None = MISSING


@dataclass
class Row:
    user_id: int
    first_name: str
    password: str = "secret"


def test_names_are_camel_case_on_the_wire_and_snake_case_in_python() -> None:
    user = UserRead(user_id=7, first_name="Ada")

    assert user.model_dump_json() == '{"userId":7,"firstName":"Ada"}'
    assert UserRead.model_validate_json('{"userId":7,"firstName":"Ada"}') == user


def test_what_is_answered_is_built_from_rows_and_drops_what_it_does_not_know() -> None:
    assert UserRead.model_validate(Row(7, "Ada")).model_dump() == {"userId": 7, "firstName": "Ada"}
    assert UserRead.model_validate({"userId": 7, "firstName": "Ada", "role": "admin"}).user_id == 7


def test_what_is_sent_may_hold_nothing_unknown() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        UserCreate.model_validate({"firstName": "Ada", "role": "admin"})


def test_a_field_cannot_be_sent_under_both_of_its_names() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        UserCreate.model_validate({"firstName": "Ada", "first_name": "Eve"})


def test_what_is_sent_is_not_built_from_objects() -> None:
    with pytest.raises(ValidationError):
        UserCreate.model_validate(Row(7, "Ada"))


@pytest.mark.parametrize(
    ("sent", "changes"),
    [
        ({}, {}),
        ({"firstName": "Ada"}, {"first_name": "Ada"}),
        ({"nickName": None}, {"nick_name": None}),
        ({"nickName": "A", "firstName": "Ada"}, {"first_name": "Ada", "nick_name": "A"}),
    ],
)
def test_a_patch_knows_an_absent_field_from_a_null(sent: dict[str, Any], changes: dict[str, Any]) -> None:
    assert UserPatch.model_validate(sent).changes() == changes


def test_a_patch_refuses_null_where_null_is_no_value() -> None:
    with pytest.raises(ValidationError):
        UserPatch.model_validate({"firstName": None})


def test_a_patch_made_with_missing_changes_nothing() -> None:
    assert UserPatch(first_name=MISSING).changes() == {}


# ---------------------------------------------------------------- over HTTP


def make_app() -> FastAPI:
    app = FastAPI()
    add_problem_handlers(app)

    @app.get("/users")
    async def find(
        page: PageDep,
        sort: Annotated[SortParams, sort_by("first_name", "created_at", default="-created_at,first_name")],
        name: str = "",
    ) -> Page[UserRead]:
        rows = [Row(7, f"{name}{sort.keys}")]
        return Page[UserRead].of(rows, page, total=page.offset + page.limit)

    @app.get("/unsorted")
    async def find_unsorted(sort: Annotated[SortParams, sort_by("name")]) -> int:
        return len(list(sort))

    return app


client = TestClient(make_app())


def test_a_page_is_asked_for_and_answered_on_the_wire() -> None:
    answered = client.get("/users?page=3&size=50&name=x&sort=firstName").json()

    assert answered == {
        "items": [{"userId": 7, "firstName": "x(SortKey(field='first_name', descending=False),)"}],
        "total": 150,
        "page": 3,
        "size": 50,
    }


def test_a_page_is_the_first_20_unless_asked_otherwise() -> None:
    page = client.get("/users").json()

    assert (page["page"], page["size"], page["total"]) == (1, 20, 20)
    assert PageParams() == PageParams(number=1, size=20)


@pytest.mark.parametrize(
    "query", ["page=0", "size=0", "size=101", "page=-1", "page=102&size=100", "page=1.5"]
)
def test_a_page_beyond_the_limits_is_refused(query: str) -> None:
    response = client.get(f"/users?{query}")

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


def test_the_last_page_within_the_limit_is_answered() -> None:
    assert client.get("/users?page=101&size=100").json()["page"] == 101


def test_the_name_of_a_page_is_made_of_its_items() -> None:
    assert Page[UserRead].__name__ == "UserReadPage"
    assert Page[list[int]].__name__ == "listPage"
    assert Page[int | None].__name__ == "int_NonePage"


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("", [SortKey("created_at", descending=True), SortKey("first_name")]),
        ("?sort=", [SortKey("created_at", descending=True), SortKey("first_name")]),
        ("?sort=firstName", [SortKey("first_name")]),
        ("?sort=-firstName,createdAt", [SortKey("first_name", descending=True), SortKey("created_at")]),
    ],
)
def test_an_order_is_read_from_the_wire(query: str, keys: list[SortKey]) -> None:
    assert client.get(f"/users{query}").json()["items"][0]["firstName"] == repr(tuple(keys))


def test_without_a_default_there_is_no_order() -> None:
    assert client.get("/unsorted").json() == 0


@pytest.mark.parametrize(
    "sort", ["password", "first_name", "-", "--name", "firstName,", "+firstName", "FIRSTNAME"]
)
def test_an_order_that_is_not_allowed_is_refused_with_those_that_are(sort: str) -> None:
    problem = client.get("/users", params={"sort": sort}).json()

    assert problem["status"] == 422
    assert problem["errors"] == [
        {
            "loc": ["query", "sort"],
            "type": "unknown_sort_key",
            "message": "Sort by firstName, createdAt; a leading - descends",
        }
    ]


def test_an_order_names_each_field_once() -> None:
    assert client.get("/users?sort=firstName,-firstName").json()["errors"][0]["type"] == "repeated_sort_key"


def test_an_order_of_nothing_is_a_mistake_in_the_service() -> None:
    with pytest.raises(ConfigurationError, match="allows no field"):
        sort_by()


def test_a_default_order_that_is_not_allowed_is_a_mistake_in_the_service() -> None:
    with pytest.raises(ConfigurationError, match=r"'nam', which it does not allow. Did you mean 'name'\?"):
        sort_by("name", default="-nam")

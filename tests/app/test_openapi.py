"""The OpenAPI document is valid, stable, true about errors, and taken by client generators without a
warning."""

import json
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from fastapi import APIRouter, Body, FastAPI, UploadFile
from openapi_spec_validator import validate
from pydantic import MISSING, BaseModel, Field, computed_field

from backstay.app.openapi import refine_openapi
from backstay.app.problems import Problem
from backstay.app.schemas import (
    InputSchema,
    Page,
    PageDep,
    PatchSchema,
    Schema,
    SortParams,
    sort_by,
)


class Tag(Enum):
    USERS = "Shop users"


class Cat(Schema):
    kind: Literal["cat"] = "cat"
    lives_left: int = 9


class Dog(Schema):
    kind: Literal["dog"] = "dog"


class Price(Schema):
    """What something costs."""

    amount: Annotated[Decimal, Field(examples=["12.50"])]
    currency: str = "EUR"

    @computed_field  # type: ignore[prop-decorator]  # Pydantic's documented use
    @property
    def label(self) -> str:
        """How to show it."""
        return f"{self.amount} {self.currency}"


class UserCreate(InputSchema):
    first_name: Annotated[str, Field(min_length=1, examples=["Ada"])]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    price: Price


class UserRead(Schema):
    user_id: int
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    price: Price
    friends: list["UserRead"] = []  # noqa: RUF012  # Pydantic copies it


class UserPatch(PatchSchema):
    first_name: str | MISSING = MISSING
    nick_name: str | MISSING | None = MISSING


def add_users(app: FastAPI, prefix: str = "/users") -> None:
    router = APIRouter(prefix=prefix, tags=["users"])

    @router.get("")
    async def find(
        page: PageDep, sort: Annotated[SortParams, sort_by("user_id", default="-user_id")]
    ) -> Page[UserRead]:
        raise NotImplementedError

    @router.post("", status_code=201, responses={409: {"description": "The name is taken."}})
    async def create(user: UserCreate) -> UserRead:
        raise NotImplementedError

    @router.patch("/{user_id}", responses={404: {"model": Problem}})
    async def change(user_id: int, change: UserPatch) -> UserRead:
        raise NotImplementedError

    @router.delete("/{user_id}", status_code=204)
    async def delete(user_id: int) -> None:
        raise NotImplementedError

    app.include_router(router)


def add_others(app: FastAPI) -> None:
    @app.post("/files")
    async def upload(file: UploadFile, note: Annotated[str, Body()] = "") -> int:
        raise NotImplementedError

    @app.get("/ping")
    async def ping() -> dict[str, int]:
        raise NotImplementedError


def document_of(*builders: Any, **options: Any) -> dict[str, Any]:
    app = FastAPI(title="Shop", **options)
    refine_openapi(app)
    for build in builders:
        build(app)
    document = app.openapi()
    validate(document)
    return document


def operation_ids(document: dict[str, Any]) -> dict[str, str]:
    return {
        f"{method} {path}": operation["operationId"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def schemas_of(*builders: Any) -> dict[str, Any]:
    schemas: dict[str, Any] = document_of(*builders)["components"]["schemas"]
    return schemas


# ---------------------------------------------------------------- operations


def test_operations_are_named_by_tag_and_function_and_not_by_path() -> None:
    at_one_path = operation_ids(document_of(add_users))
    at_another = operation_ids(document_of(lambda app: add_users(app, "/v2/people")))

    assert at_one_path == {
        "get /users": "users_find",
        "post /users": "users_create",
        "patch /users/{user_id}": "users_change",
        "delete /users/{user_id}": "users_delete",
    }
    assert list(at_another.values()) == list(at_one_path.values())


def name_of(
    path: str = "/x", *, module: str = "shop.users.routes", name: str = "read", **options: Any
) -> str:
    def build(app: FastAPI) -> None:
        async def endpoint() -> None: ...

        endpoint.__module__, endpoint.__name__ = module, name
        app.get(path, **options)(endpoint)

    return operation_ids(document_of(build))[f"get {path}"]


def test_an_operation_without_a_tag_is_named_by_its_module() -> None:
    assert name_of() == "users_read"
    assert name_of(module="shop.users") == "users_read"
    assert name_of(module="shop.api.routes") == "shop_read"
    assert name_of(module="shop.main") == "read"
    assert name_of(module="routes") == "read"


def test_an_operation_says_its_subject_once() -> None:
    assert name_of(name="users_read") == "users_read"
    assert name_of(name="users") == "users"
    assert name_of(name="usersfirst") == "users_usersfirst"


def test_a_tag_may_be_an_enum_with_spaces() -> None:
    assert name_of(tags=[Tag.USERS]) == "shop_users_read"


def test_an_operation_keeps_the_name_that_the_service_gave_it() -> None:
    assert name_of(operation_id="readIt") == "readIt"


def test_operations_of_one_name_are_told_apart_by_method_then_path() -> None:
    def build(app: FastAPI) -> None:
        async def read() -> None: ...

        for path in ("/a", "/b", "/b-", "/b+"):
            app.get(path, tags=["x"])(read)
        app.api_route("/c", methods=["PUT", "POST"], tags=["x"])(read)

    assert operation_ids(document_of(build)) == {
        "get /a": "x_read",
        "get /b": "x_read_get",
        "get /b-": "x_read_b_get",
        "get /b+": "x_read_b_get_2",
        "post /c": "x_read_post",
        "put /c": "x_read_put",
    }


def test_a_made_up_name_gives_way_to_a_given_one() -> None:
    def build(app: FastAPI) -> None:
        async def read() -> None: ...

        app.get("/a", tags=["x"])(read)
        app.get("/b", operation_id="x_read")(read)
        app.get("/c", operation_id="x_read")(read)

    assert operation_ids(document_of(build)) == {
        "get /a": "x_read_get",
        "get /b": "x_read",
        "get /c": "x_read_c_get",
    }


def test_routes_that_are_added_later_are_refined_too() -> None:
    app = FastAPI(title="Shop")
    refine_openapi(app)
    add_others(app)
    first = app.openapi()
    add_users(app)

    assert app.openapi() is not first
    assert app.openapi() is app.openapi()
    assert operation_ids(app.openapi())["get /users"] == "users_find"


# ---------------------------------------------------------------- models


def test_every_model_has_one_name() -> None:
    assert set(schemas_of(add_users, add_others)) == {
        *("Cat", "Dog", "FieldProblem", "Price", "Problem", "TestOpenapiUploadBody"),
        *("UserCreate", "UserPatch", "UserRead", "UserReadPage"),
    }


def test_a_model_of_both_directions_shows_computed_fields_as_read_only() -> None:
    price = schemas_of(add_users)["Price"]

    assert price["required"] == ["amount", "label"]
    assert price["properties"]["label"]["readOnly"] is True
    assert price["properties"]["amount"]["examples"] == ["12.50"]
    assert "readOnly" not in price["properties"]["amount"]


def test_a_model_of_both_directions_without_computed_fields_is_what_may_be_sent() -> None:
    class Weight(BaseModel):
        grams: Decimal = Decimal(0)

    def build(app: FastAPI) -> None:
        @app.post("/weights")
        async def weigh(weight: Weight) -> Weight:
            raise NotImplementedError

    weight = schemas_of(build)["Weight"]
    assert "required" not in weight
    assert {"type": "number"} in weight["properties"]["grams"]["anyOf"]


def test_discriminators_point_at_the_joined_models() -> None:
    pet = schemas_of(add_users)["UserCreate"]["properties"]["pet"]

    assert pet["discriminator"]["mapping"] == {
        "cat": "#/components/schemas/Cat",
        "dog": "#/components/schemas/Dog",
    }


def test_an_absent_field_of_a_patch_is_neither_required_nor_null() -> None:
    patch = schemas_of(add_users)["UserPatch"]

    assert "required" not in patch
    assert patch["additionalProperties"] is False
    assert patch["properties"]["firstName"] == {"type": "string", "title": "Firstname"}
    assert patch["properties"]["nickName"]["anyOf"] == [{"type": "string"}, {"type": "null"}]


def test_no_schema_has_a_title_that_nobody_chose() -> None:
    assert '"title": "Response ' not in json.dumps(document_of(add_users, add_others))


def test_the_order_of_a_list_is_described_by_what_is_allowed() -> None:
    parameters = document_of(add_users)["paths"]["/users"]["get"]["parameters"]
    sort = next(parameter for parameter in parameters if parameter["name"] == "sort")

    assert sort["schema"]["pattern"] == "^(-?(userId)(,-?(userId))*)?$"
    assert sort["schema"]["default"] == "-userId"
    assert sort["required"] is False


# ---------------------------------------------------------------- errors


def test_errors_are_described_as_problem_documents() -> None:
    document = document_of(add_users, add_others)

    assert "HTTPValidationError" not in json.dumps(document)
    assert document["paths"]["/ping"]["get"]["responses"].keys() == {"200", "4XX", "default"}
    assert document["paths"]["/users"]["get"]["responses"]["422"] == {
        "$ref": "#/components/responses/InvalidInput"
    }
    for response in document["components"]["responses"].values():
        content = response["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        Problem.model_validate(content["example"])


def test_a_described_error_without_a_body_has_a_problem_for_one() -> None:
    described = document_of(add_users)["paths"]["/users"]["post"]["responses"]["409"]

    assert described["description"] == "The name is taken."
    assert list(described["content"]) == ["application/problem+json"]


def test_a_problem_is_never_described_as_plain_json() -> None:
    described = document_of(add_users)["paths"]["/users/{user_id}"]["patch"]["responses"]["404"]

    assert list(described["content"]) == ["application/problem+json"]


def test_an_error_that_the_service_describes_itself_is_kept() -> None:
    class Refusal(BaseModel):
        why: str

    def build(app: FastAPI) -> None:
        @app.get("/x", responses={409: {"model": Refusal}, "default": {"description": "Else."}})
        async def read() -> None: ...

    responses = document_of(build)["paths"]["/x"]["get"]["responses"]
    assert responses["409"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Refusal"
    }
    assert responses["default"]["description"] == "Else."


def test_members_of_a_problem_that_may_be_absent_are_not_nullable() -> None:
    problem = schemas_of()["Problem"]

    assert problem["required"] == ["title", "status", "code"]
    assert problem["properties"]["requestId"]["type"] == "string"
    assert "null" not in json.dumps(problem)


def test_a_service_with_error_bodies_of_its_own_describes_them_itself() -> None:
    app = FastAPI()
    refine_openapi(app, has_problems=False)
    add_users(app)

    assert "HTTPValidationError" in app.openapi()["components"]["schemas"]
    assert "responses" not in app.openapi()["components"]


# ---------------------------------------------------------------- the whole


def test_tags_are_listed() -> None:
    document = document_of(add_users, name_tags, openapi_tags=[{"name": "users", "description": "People."}])

    assert document["tags"] == [{"name": "users", "description": "People."}, {"name": "more"}]


def name_tags(app: FastAPI) -> None:
    @app.get("/more", tags=["more", "users"])
    async def more() -> None: ...


def test_what_the_service_says_of_itself_is_kept() -> None:
    document = document_of(
        license_info={"name": "MIT", "identifier": "MIT"}, servers=[{"url": "https://shop.example"}]
    )

    assert document["info"]["license"] == {"name": "MIT", "identifier": "MIT"}
    assert document["servers"] == [{"url": "https://shop.example"}]
    assert "tags" not in document


def find_generator() -> str:
    beside = Path(sys.executable).with_name("openapi-python-client")
    found = shutil.which("openapi-python-client") or (str(beside) if beside.exists() else None)
    return found or pytest.skip("openapi-python-client is not on PATH; it pins an older Typer than ours")


def test_a_client_is_generated_without_a_warning(tmp_path: Path) -> None:
    generator = find_generator()
    (tmp_path / "openapi.json").write_text(json.dumps(document_of(add_users, add_others)))

    generated = subprocess.run(
        [generator, "generate", "--path", "openapi.json", "--output-path", "client", "--fail-on-warning"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert generated.returncode == 0, generated.stdout + generated.stderr
    assert "arning" not in generated.stdout + generated.stderr
    modules = {path.stem for path in (tmp_path / "client").rglob("*.py")}
    assert {
        "users_find",
        "user_read_page",
        "user_patch",
        "price",
        "cat",
        "problem",
        "field_problem",
    } <= modules

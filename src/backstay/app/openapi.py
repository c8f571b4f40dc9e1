"""An OpenAPI document that linters and client generators take as it is.

FastAPI writes the document; this module then gives operations short names that do not change with their
paths, joins the `-Input` and `-Output` halves of a model into one, and describes the errors that are really
sent.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from http import HTTPStatus
from threading import Lock
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from backstay.app._conditional_operations import describe_conditions
from backstay.app._idempotent_operations import describe_idempotency
from backstay.app._limited_routes import describe_limits
from backstay.app._operation_ids import name_operations
from backstay.app._secured_operations import describe_security
from backstay.app.problems import PROBLEM_MEDIA_TYPE, FieldProblem, Problem

__all__ = ["refine_openapi"]

_Json: TypeAlias = dict[str, Any]

_SCHEMAS: Final = "#/components/schemas/"
_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def refine_openapi(app: FastAPI, *, has_problems: bool = True) -> None:
    """Make `app.openapi()` return the refined document; it is still built on first use and kept.

    Args:
        app: The app whose document it is.
        has_problems: Describe errors as problem documents. False for a service that shapes them in its own
            way and describes them itself, with `responses=`.
    """
    # The split tells what each direction needs; without it FastAPI leaves out what is only ever sent.
    app.separate_input_output_schemas = True
    plain = app.openapi
    refined: list[_Json] = []
    turn = Lock()  # one thread makes it, the others wait

    def openapi() -> _Json:
        with turn:
            document = _build(plain)
            if not refined or document is not refined[0]:
                _refine(document, app, has_problems=has_problems)
                refined[:] = [document]
            return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change the document


def _build(plain: Callable[[], _Json]) -> _Json:
    with warnings.catch_warnings():
        # About names that FastAPI made itself and that are replaced here.
        warnings.filterwarnings("ignore", message="Duplicate Operation ID")
        return plain()


def _refine(document: _Json, app: FastAPI, *, has_problems: bool) -> None:
    schemas: _Json = document.setdefault("components", {}).setdefault("schemas", {})
    renamed = _name_operations(document, app)
    renamed |= _join_directions(schemas) | _name_generics(schemas)
    _rename_schemas(document, schemas, renamed)
    describe_conditions(document, app.routes)
    describe_idempotency(document, app.routes)
    describe_limits(document, app.routes)
    describe_security(document, app)
    if has_problems:
        _describe_problems(document, schemas)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    _list_tags(document)


def _operations(document: _Json) -> Iterator[tuple[str, str, _Json]]:
    for path, item in document["paths"].items():
        yield from ((path, method, item[method]) for method in _METHODS if method in item)


# ---------------------------------------------------------------- names


def _name_operations(document: _Json, app: FastAPI) -> dict[str, str]:
    """Set the names of operations; return the new names of the schemas that FastAPI named after them."""
    names = name_operations(app.routes)
    renamed = {}
    for path, method, operation in _operations(document):
        name = names[path, method]
        renamed[f"Body_{operation['operationId']}"] = f"{_pascal(name)}Body"
        operation["operationId"] = name
        for response in operation["responses"].values():
            _drop_made_up_titles(response)
    return renamed


def _name_generics(schemas: _Json) -> dict[str, str]:
    """Return better names for schemas such as `Page_UserRead_`: what the model calls itself."""
    titles = {name: str(schema.get("title", "")) for name, schema in schemas.items() if name.endswith("_")}
    return {name: title for name, title in titles.items() if title.isidentifier() and title not in schemas}


def _drop_made_up_titles(response: _Json) -> None:
    # Generators would make classes named ResponseUsersReadUsersUserIdGet of them.
    for content in response.get("content", {}).values():
        if str(content.get("schema", {}).get("title", "")).startswith("Response "):
            del content["schema"]["title"]


def _pascal(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _list_tags(document: _Json) -> None:
    listed: list[_Json] = document.get("tags", [])
    known = {tag["name"] for tag in listed}
    used = dict.fromkeys(
        tag for _, _, operation in _operations(document) for tag in operation.get("tags", ())
    )
    if tags := [*listed, *({"name": tag} for tag in used if tag not in known)]:
        document["tags"] = tags


# ---------------------------------------------------------------- one schema per model


def _join_directions(schemas: _Json) -> dict[str, str]:
    """Join the two halves of each model that FastAPI split; return their new names."""
    renamed: dict[str, str] = {}
    for half in [name for name in schemas if name.endswith("-Input")]:
        name = half.removesuffix("-Input")
        schemas[name] = _join(schemas.pop(half), schemas.pop(f"{name}-Output", {}))
        renamed |= {half: name, f"{name}-Output": name}
    return renamed


def _join(sent: _Json, answered: _Json) -> _Json:
    """Return what may be sent, with what is only answered added as read-only."""
    only_answered = {
        name: {**schema, "readOnly": True}
        for name, schema in answered.get("properties", {}).items()
        if name not in sent.get("properties", {})
    }
    if not only_answered:
        return sent
    required = [name for name in answered.get("required", ()) if name in only_answered]
    joined = {**sent, "properties": {**sent.get("properties", {}), **only_answered}}
    return {**joined, "required": [*sent.get("required", ()), *required]}


def _rename_schemas(document: _Json, schemas: _Json, names: dict[str, str]) -> None:
    for old, new in names.items():
        if old in schemas:
            schemas[new] = schemas.pop(old)
            schemas[new]["title"] = new
    references = {_SCHEMAS + old: _SCHEMAS + new for old, new in names.items()}
    _replace_references(document, references)


def _replace_references(node: object, references: dict[str, str]) -> None:
    if isinstance(node, list):
        for inner in node:
            _replace_references(inner, references)
    elif isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str):  # under $ref, or in the mapping of a discriminator
                node[key] = references.get(value, value)
            else:
                _replace_references(value, references)


# ---------------------------------------------------------------- errors

_FASTAPI_ERRORS: Final = ("HTTPValidationError", "ValidationError")
_RESPONSES: Final = "#/components/responses/"
_EXAMPLE: Final = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "There is no such user.",
    "code": "not_found",
    "requestId": "0198c5f0a4b87c1f9f0d6f1e",
}
_INPUT_EXAMPLE: Final = {
    "type": "about:blank",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "The input is not valid.",
    "code": "invalid_input",
    "requestId": "0198c5f0a4b87c1f9f0d6f1e",
    "errors": [{"loc": ["body", "name"], "type": "missing", "message": "Field required"}],
}


def _describe_problems(document: _Json, schemas: _Json) -> None:
    for name in _FASTAPI_ERRORS:
        schemas.pop(name, None)
    schemas.update(_problem_schemas())
    document["components"]["responses"] = {
        "Problem": _response("The request failed.", _EXAMPLE),
        "InvalidInput": _response("The input is not valid.", _INPUT_EXAMPLE),
    }
    for _, _, operation in _operations(document):
        responses: _Json = operation["responses"]
        for status, response in responses.items():
            if re.match("[45]|default", status):
                responses[status] = _with_problem(status, response)
        # Both: linters ask for a 4xx, generators for a default.
        responses.setdefault("4XX", {"$ref": f"{_RESPONSES}Problem"})
        responses.setdefault("default", {"$ref": f"{_RESPONSES}Problem"})


def _problem_schemas() -> _Json:
    models = [(Problem, "serialization"), (FieldProblem, "serialization")]
    _, described = models_json_schema(models, ref_template=_SCHEMAS + "{model}")  # type: ignore[arg-type]
    return dict(described["$defs"])


def _with_problem(status: str, response: _Json) -> _Json:
    """Return the response with a problem as its body, unless the service describes another one."""
    content = response.get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref")
    if reference == f"{_SCHEMAS}HTTPValidationError":
        return {"$ref": f"{_RESPONSES}InvalidInput"}
    if not content or reference == f"{_SCHEMAS}Problem":
        return {**response, "content": _content(_example(status))}
    return response


def _example(status: str) -> _Json:
    if not status.isdigit() or status == "404":
        return _EXAMPLE
    title = HTTPStatus(int(status)).phrase
    code = re.sub(r"\W+", "_", title).lower()
    return {
        "type": "about:blank",
        "title": title,
        "status": int(status),
        "code": code,
        "requestId": _EXAMPLE["requestId"],
    }


def _response(description: str, example: _Json) -> _Json:
    return {"description": description, "content": _content(example)}


def _content(example: _Json) -> _Json:
    return {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}, "example": example}}

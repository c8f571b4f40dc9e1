"""Error answers as RFC 9457 problem documents, which never repeat what the caller sent.

`problem_of` says what an error is for the caller, a `ProblemShape` turns that into a response,
`add_problem_handlers` puts both into a FastAPI app, and `render_problem` does the same for errors that
surface outside of FastAPI.
"""

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeAlias, cast

from fastapi import FastAPI
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
    websocket_request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.json_schema import SkipJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.status import WS_1008_POLICY_VIOLATION
from starlette.types import ExceptionHandler
from starlette.websockets import WebSocket

from backstay import json
from backstay.app._allowed_methods import list_allowed_methods
from backstay.app._invalid_input import describe_errors, position_of_bad_json
from backstay.app.schemas import Schema
from backstay.errors import (
    AppError,
    BadRequestError,
    ConflictError,
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
)
from backstay.redaction import Redactor

__all__ = [
    "PROBLEM_MEDIA_TYPE",
    "FieldProblem",
    "Problem",
    "ProblemFacts",
    "ProblemShape",
    "add_problem_handlers",
    "problem_of",
    "problem_response",
    "render_problem",
    "standard_problem",
]

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"

_logger = logging.getLogger("backstay.app")


def _without_default(schema: dict[str, Any]) -> None:
    # These members are left out when absent, never sent as null.
    schema.pop("default", None)


_Absent: TypeAlias = SkipJsonSchema[None]
_optional = Field(default=None, json_schema_extra=_without_default)


class FieldProblem(Schema):
    """One thing that is wrong with the input."""

    loc: Annotated[
        list[str | int],
        Field(description="Where it is; `*` stands for a name that the schema does not know."),
    ]
    type: Annotated[str, Field(description="What is wrong, as a word for programs.")]
    message: Annotated[str, Field(description="What is wrong, as a sentence for people.")]


class Problem(Schema):
    """What went wrong, as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[
        str, Field(description="A URI for the kind of problem; `about:blank` says: see the status.")
    ] = "about:blank"
    title: Annotated[str, Field(description="The kind of problem, in words.")]
    status: Annotated[int, Field(description="The HTTP status.")]
    detail: Annotated[str | _Absent, Field(description="What went wrong this time.")] = _optional
    instance: Annotated[str | _Absent, Field(description="A URI for this occurrence.")] = _optional
    code: Annotated[str, Field(description="The kind of problem, as a word for programs.")]
    request_id: Annotated[str | _Absent, Field(description="Names this request in the logs.")] = _optional
    errors: Annotated[list[FieldProblem] | _Absent, Field(description="What is wrong with the input.")] = (
        _optional
    )


@dataclass(frozen=True, slots=True)
class ProblemFacts:
    """What an error is for the caller."""

    problem: Problem
    headers: Mapping[str, str] = field(default_factory=dict)


ProblemShape: TypeAlias = Callable[[Problem, Request], Response]
"""Turns a problem into a response. Replace it to keep the error bodies of an older contract; it takes the
status from the problem, and the headers of the error (`Allow`, `Retry-After`) are added to whatever it
returns."""


def problem_response(problem: Problem, request: Request) -> Response:
    """Return the problem as `application/problem+json`."""
    return Response(_encode(problem), status_code=problem.status, media_type=PROBLEM_MEDIA_TYPE)


def problem_of(error: Exception, request: Request) -> ProblemFacts:
    """Return what `error` is for the caller: its own words if it was meant for callers, else a bare 500.

    A group of exceptions that holds a single one counts as that one, so that tasks of a `TaskGroup` can raise
    `AppError` too.
    """
    error = _only_one(error)
    request_id = _request_id(request)
    if isinstance(error, AppError):
        return ProblemFacts(_of_app_error(error, request_id), error.headers)
    if isinstance(error, HTTPException):
        return ProblemFacts(_of_http_exception(error, request_id), _headers_of(error, request))
    if isinstance(error, RequestValidationError):
        return ProblemFacts(_of_invalid_input(error, request, request_id))
    return ProblemFacts(_problem(500, request_id, {}))


def standard_problem(status: int, *, detail: str, request_id: str, code: str | None = None) -> Problem:
    """Return the document for a status, for answers that are made without a request of the app.

    Args:
        status: Decides the title, and the code unless there is a special one.
        detail: What is wrong this time.
        request_id: Names it in the logs.
        code: Instead of the status's own.
    """
    return _problem(status, request_id, {"detail": detail} | ({"code": code} if code else {}))


def add_problem_handlers(app: FastAPI, *, shape: ProblemShape = problem_response) -> None:
    """Answer every error of `app` with a problem document, except where it has a handler of its own.

    Errors that are no answers (a bug, a failed commit) are not touched: what wraps the app logs them and
    calls `render_problem`.
    """
    app.state.backstay_problem_shape = shape
    handlers: dict[type[Exception], object] = {
        HTTPException: _handle,
        RequestValidationError: _handle,
        AppError: _handle,
        WebSocketRequestValidationError: _close_socket,
    }
    for kind, handler in handlers.items():
        if app.exception_handlers.get(kind) in _FASTAPI_HANDLERS:
            app.add_exception_handler(kind, cast("ExceptionHandler", handler))


_FASTAPI_HANDLERS: Final[tuple[object, ...]] = (
    None,
    http_exception_handler,
    request_validation_exception_handler,
    websocket_request_validation_exception_handler,
)


async def render_problem(request: Request, error: Exception, *, meaning: Exception | None = None) -> Response:
    """Return the answer to `error` as the app would give it, for errors that surface outside of it.

    `meaning` is what the error says to a caller, such as a `ConflictError` for a constraint of the
    database. It is answered unless the app has a handler for the error's own class.

    Asks the handlers that were registered on the app first, in Starlette's order (the status of an
    `HTTPException`, then the classes of the error, then 500), and shapes a problem document when there is
    none. Does not log `error`: the caller knows whether it is news. A handler that fails is logged, and its
    failure is what gets answered.
    """
    error = _only_one(error)
    handler = _find_handler(request, error, is_catching_all=meaning is None)
    if handler is None and meaning is not None:
        return await render_problem(request, meaning)
    if handler is None:
        return _shape(request, problem_of(error, request))
    try:
        return await _call(handler, request, error) or _shape(request, problem_of(error, request))
    except Exception as failure:
        _logger.exception("The handler for %s failed.", type(error).__name__)
        return _shape(request, problem_of(failure, request))


# ---------------------------------------------------------------- errors into problems

_TITLES: Final = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_CODES: Final = {
    kind.status: kind.code
    for kind in (
        *(BadRequestError, UnauthenticatedError, PermissionDeniedError, NotFoundError, ConflictError),
        *(InvalidInputError, RateLimitedError, AppError, UnavailableError, DeadlineExceededError),
    )
}
_WORDS: Final = ("type", "title", "detail", "instance", "code")
_RESERVED: Final = frozenset({*Problem.model_fields, "requestId"})


def _of_app_error(error: AppError, request_id: str | None) -> Problem:
    members = {"title": error.title, "code": error.code, "detail": error.detail, **_members(error.extensions)}
    return _problem(error.status, request_id, members)


def _headers_of(error: HTTPException, request: Request) -> dict[str, str]:
    headers = dict(error.headers or {})
    if error.status_code == 405 and "Allow" in headers and "app" in request.scope:
        named = {method.strip() for method in headers["Allow"].split(",")}
        headers["Allow"] = ", ".join(sorted(named | list_allowed_methods(request, request.app.routes)))
    return headers


def _of_http_exception(error: HTTPException, request_id: str | None) -> Problem:
    status = error.status_code
    detail = cast("object", error.detail)  # FastAPI allows anything that JSON can say
    if isinstance(detail, Mapping):
        return _problem(status, request_id, _members(detail))
    if isinstance(detail, str):
        # Starlette fills in the phrase of the status, which is the title already.
        return _problem(status, request_id, {"detail": None if detail == _phrase(status) else detail})
    return _problem(status, request_id, {"details": detail})


def _of_invalid_input(error: RequestValidationError, request: Request, request_id: str | None) -> Problem:
    errors = [
        FieldProblem(loc=wrong.loc, type=wrong.type, message=wrong.message)
        for wrong in describe_errors(error, request)
    ]
    if (position := position_of_bad_json(error)) is not None:
        detail = f"The body is not valid JSON, at character {position}."
        return _problem(400, request_id, {"code": "malformed_json", "detail": detail})
    # FastAPI hands over the raw bytes when it did not take them for JSON.
    if isinstance(error.body, bytes) and any(wrong.loc == ["body"] for wrong in errors):
        detail = "Send the body as JSON, with the header Content-Type: application/json."
        return _problem(415, request_id, {"detail": detail})
    return _problem(422, request_id, {"detail": "The input is not valid.", "errors": errors})


def _problem(status: int, request_id: str | None, members: Mapping[str, object]) -> Problem:
    title = _TITLES.get(status) or _phrase(status) or "Unknown Error"
    code = _CODES.get(status) or re.sub(r"\W+", "_", title).lower()
    standard = {"title": title, "code": code, "status": status, "request_id": request_id}
    return Problem.model_validate(standard | dict(members))


def _members(given: Mapping[Any, object]) -> dict[str, object]:
    """Return what a developer added to a problem: words and errors of the document itself, and extensions.

    What is secret by its type or name is masked in the extensions.
    """
    words: dict[str, object] = {
        name: value for name, value in given.items() if name in _WORDS and isinstance(value, str)
    }
    errors = given.get("errors")
    if isinstance(errors, list) and all(isinstance(error, FieldProblem) for error in errors):
        words["errors"] = errors
    extensions = {to_camel(str(name)): value for name, value in given.items() if name not in words}
    shown = {name: value for name, value in extensions.items() if name not in _RESERVED}
    return words | cast("dict[str, object]", _redactor.redact(shown))


_redactor: Final = Redactor()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _only_one(error: Exception) -> Exception:
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return _only_one(error.exceptions[0])
    return error


def _request_id(request: Request) -> str | None:
    return cast("str | None", request.scope.get("backstay.request_id"))


# ---------------------------------------------------------------- problems into responses

_OWN_HEADERS: Final = ("content-type", "content-length")


async def _handle(request: Request, error: Exception) -> Response:
    return _shape(request, problem_of(error, request))


async def _close_socket(websocket: WebSocket, error: Exception) -> None:
    # FastAPI's own handler sends the refused input back as the reason.
    await websocket.close(code=WS_1008_POLICY_VIOLATION, reason="Invalid input")


def _shape(request: Request, facts: ProblemFacts) -> Response:
    status = facts.problem.status
    if status < 400 or not is_body_allowed_for_status_code(status):
        return Response(status_code=status, headers=facts.headers)
    response = _draw(request, facts.problem)
    response.headers.update(
        {name: value for name, value in facts.headers.items() if name.lower() not in _OWN_HEADERS}
    )
    if request.method == "HEAD":
        response.body = b""  # the length stays what GET would have sent
    return response


def _draw(request: Request, problem: Problem) -> Response:
    app = request.scope.get("app")
    shape: ProblemShape = getattr(getattr(app, "state", None), "backstay_problem_shape", problem_response)
    try:
        return shape(problem, request)
    except Exception:
        _logger.exception("The problem shape failed; the standard one is used.")
        return problem_response(problem, request)


def _encode(problem: Problem) -> bytes:
    try:
        return json.dumps(problem.model_dump(exclude_none=True))
    except json.JSONEncodeError:
        _logger.exception("A problem has members that JSON cannot say; they are left out.")
        return json.dumps(problem.model_dump(exclude_none=True, include=set(Problem.model_fields)))


# ---------------------------------------------------------------- the app's own handlers

_Handler: TypeAlias = Callable[[Request, Exception], Response | Awaitable[Response | None] | None]


def _find_handler(request: Request, error: Exception, *, is_catching_all: bool) -> _Handler | None:
    handlers: Mapping[object, _Handler] = getattr(request.scope.get("app"), "exception_handlers", {})
    if isinstance(error, HTTPException) and error.status_code in handlers:
        return handlers[error.status_code]
    for kind in type(error).__mro__:
        if kind in handlers and (is_catching_all or kind is not Exception):
            return handlers[kind]
    return handlers.get(500) if is_catching_all and not isinstance(error, AppError) else None


async def _call(handler: _Handler, request: Request, error: Exception) -> Response | None:
    is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
    answer = handler(request, error) if is_async else await run_in_threadpool(handler, request, error)
    return await answer if inspect.isawaitable(answer) else answer

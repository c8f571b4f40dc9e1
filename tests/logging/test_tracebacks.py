# ruff: noqa: TRY301  errors that are raised and caught are what is tested
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, Field, SecretStr, TypeAdapter, ValidationError

from backstay.logging import get_logger

if TYPE_CHECKING:
    from tests.logging.conftest import Lines

logger = get_logger("shop")


class OrderError(Exception):
    """An error with a module."""


def fail(card_number: str) -> NoReturn:
    raise OrderError(f"declined {len(card_number)}")


def test_a_traceback_is_data_without_locals(lines: Lines) -> None:
    try:
        fail("canary")
    except OrderError:
        logger.exception("order failed", order_id=7)

    event = lines.read_event()
    exception = event["exception"]
    assert list(exception) == ["type", "message", "frames"]
    assert exception["type"] == f"{__name__}.OrderError"
    assert exception["message"] == "declined 6"
    assert [frame["function"] for frame in exception["frames"]] == [
        "test_a_traceback_is_data_without_locals",
        "fail",
    ]
    assert exception["frames"][1] == {
        "file": __file__,
        "line": fail.__code__.co_firstlineno + 1,
        "function": "fail",
    }
    assert "canary" not in lines.read_text()


def test_causes_are_told_from_the_last_to_the_first(lines: Lines) -> None:
    try:
        try:
            try:
                raise KeyError("sku")
            except KeyError:
                raise ValueError("second")  # noqa: B904  the context is what is tested
        except ValueError as error:
            raise OrderError("third") from error
    except OrderError as error:
        logger.error("order failed", exc_info=error)  # noqa: TRY400  the argument is what is tested

    causes = lines.read_event()["exception"]["causes"]
    assert [cause["type"] for cause in causes] == ["ValueError", "KeyError"]
    assert causes[1]["message"] == "'sku'"


def test_a_suppressed_context_is_not_told(lines: Lines) -> None:
    try:
        try:
            raise KeyError("sku")
        except KeyError:
            raise OrderError("third") from None
    except OrderError:
        logger.exception("order failed")

    assert "causes" not in lines.read_event()["exception"]


def test_members_of_a_group_and_notes_are_told(lines: Lines) -> None:
    first = ValueError("one")
    first.add_note("token=canary-0123456789")
    first.__cause__ = KeyError("sku")

    logger.info("order failed", exc_info=ExceptionGroup("both", [first, TypeError("two")]))

    one, two = lines.read_event()["exception"]["exceptions"]
    assert (one["message"], two["message"]) == ("one", "two")
    assert one["notes"] == ["token=[redacted]"]
    assert one["causes"][0]["type"] == "KeyError"


def test_a_circle_of_causes_ends(lines: Lines) -> None:
    first, second = ValueError("one"), ValueError("two")
    first.__cause__, second.__cause__ = second, first

    logger.info("order failed", exc_info=first)

    assert [cause["message"] for cause in lines.read_event()["exception"]["causes"]] == ["two"]


def test_a_deep_recursion_is_told_in_fifty_frames(lines: Lines) -> None:
    def dive(depth: int) -> None:
        if not depth:
            fail("canary")
        dive(depth - 1)

    try:
        dive(200)
    except OrderError:
        logger.exception("order failed")

    frames = lines.read_event()["exception"]["frames"]
    assert len(frames) == 50
    assert frames[0]["function"] == "test_a_deep_recursion_is_told_in_fifty_frames"
    assert frames[-1]["function"] == "fail"


def test_many_errors_are_told_in_ten(lines: Lines) -> None:
    logger.info("order failed", exc_info=ExceptionGroup("many", [ValueError(number) for number in range(99)]))

    assert len(lines.read_event()["exception"]["exceptions"]) == 9


def test_an_error_that_cannot_describe_itself_is_still_told(lines: Lines) -> None:
    class MuteError(Exception):
        def __str__(self) -> NoReturn:
            raise RuntimeError

    logger.info("order failed", exc_info=MuteError())

    assert lines.read_event()["exception"]["message"] == "<unprintable>"


def test_exc_info_is_taken_in_each_of_its_forms(lines: Lines) -> None:
    try:
        raise ValueError("bad")
    except ValueError as error:
        forms: list[Any] = [True, error, sys.exc_info(), 1]
        for form in forms:
            logger.info("order failed", exc_info=form)
    for nothing in (True, False, None, (None, None, None)):
        logger.info("order accepted", exc_info=nothing)

    events = lines.read_events()
    assert [event["exception"]["message"] for event in events[:4]] == ["bad"] * 4
    assert not any({"exception", "exc_info"} & set(event) for event in events[4:])


def refuse(value: str) -> str:
    raise ValueError(f"{value} is taken")


class Login(BaseModel):
    name: Annotated[str, Field(max_length=3)]
    password: SecretStr
    nickname: Annotated[str, AfterValidator(refuse)]


def test_of_refused_input_only_what_is_wrong_is_told(lines: Lines) -> None:
    sent: Any = {"name": "hunter2", "password": ["hunter2"], "nickname": "hunter2"}
    with pytest.raises(ValidationError) as refused:
        Login.model_validate(sent)
    assert "hunter2" in str(refused.value), "Pydantic repeats what it refuses"

    for error in (refused.value, RequestValidationError(refused.value.errors(), body=sent)):
        logger.info("login failed", exc_info=error)

    assert {event["exception"]["message"] for event in lines.read_events()} == {
        "3 validation errors: name: String should have at most 3 characters (string_too_long); "
        "password: Input should be a valid string (string_type); nickname: value_error"
    }


def test_of_much_refused_input_ten_errors_are_told(lines: Lines) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(list[int]).validate_python(["x"] * 99)

    logger.info("failed", exc_info=refused.value)

    message = lines.read_event()["exception"]["message"]
    assert message.startswith("99 validation errors: 0: ")
    assert message.endswith("; and 89 more")


def test_an_error_with_other_errors_says_what_it_says(lines: Lines) -> None:
    class BatchError(Exception):
        def errors(self) -> list[str]:
            return ["x"]

    logger.info("failed", exc_info=BatchError("two failed"))

    assert lines.read_event()["exception"]["message"] == "two failed"

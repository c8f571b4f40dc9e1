import inspect
import re

import pytest

from backstay import errors
from backstay.errors import AppError, BackstayError, NotFoundError, UnavailableError, did_you_mean


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = set(re.findall(r"\b[A-Z]\w+Error\b", errors.__doc__ or ""))
    defined = {
        name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)
    }

    assert drawn == defined
    assert defined | {"did_you_mean"} == set(errors.__all__)


@pytest.mark.parametrize("kind", [getattr(errors, name) for name in errors.__all__ if name != "did_you_mean"])
def test_every_error_is_documented_and_ours(kind: type[Exception]) -> None:
    assert kind.__doc__
    assert issubclass(kind, BackstayError)


def test_the_title_stands_in_for_a_missing_detail() -> None:
    error = NotFoundError()

    assert (str(error), error.detail) == ("Not Found", None)


def test_extensions_and_headers_are_kept() -> None:
    error = AppError("No.", headers={"X-Limit": "3"}, limit=3)

    assert (error.headers, error.extensions) == ({"X-Limit": "3"}, {"limit": 3})


@pytest.mark.parametrize(("seconds", "headers"), [(1, {"Retry-After": "1"}), (None, {})])
def test_unavailable_says_when_to_come_back(seconds: int | None, headers: dict[str, str]) -> None:
    assert UnavailableError(retry_after_seconds=seconds).headers == headers


def test_the_nearest_name_is_suggested() -> None:
    assert did_you_mean("databse", ["database", "logging"]) == " Did you mean 'database'?"
    assert did_you_mean("zzz", ["database"]) == ""

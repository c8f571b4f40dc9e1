"""Exceptions as data: what, where, and what caused it. Never the values of local variables."""

import sys
from collections.abc import Callable, Mapping, Sequence
from traceback import walk_tb
from types import TracebackType
from typing import Any

_MOST_FRAMES = 50
_MOST_ERRORS = 10


def find_exception(exc_info: object) -> BaseException | None:
    """Return the exception meant by `exc_info`: itself, a triple, or true for the current one."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return next((part for part in exc_info if isinstance(part, BaseException)), None)
    return sys.exc_info()[1] if exc_info else None


def describe_exception(error: BaseException, clean_text: Callable[[str], str]) -> dict[str, object]:
    """Return `type`, `message` and `frames`, and `notes`, `causes` and `exceptions` where there are any.

    Frames are listed outermost first, causes from this error to the first, exceptions are the members of a
    group. At most 50 frames and 10 errors are told.
    """
    return _Describer(clean_text).describe(error)


class _Describer:
    def __init__(self, clean_text: Callable[[str], str]) -> None:
        self._clean_text = clean_text
        self._seen: set[int] = set()

    def describe(self, error: BaseException) -> dict[str, object]:
        description = self._describe_one(error)
        causes = []
        cause = _find_cause(error)
        while cause is not None and self._is_new(cause):
            causes.append(self._describe_one(cause))
            cause = _find_cause(cause)
        return {**description, "causes": causes} if causes else description

    def _describe_one(self, error: BaseException) -> dict[str, object]:
        self._seen.add(id(error))
        description: dict[str, object] = {
            "type": self._clean_text(_name_type(error)),
            "message": self._clean_text(read_message(error)),
            "frames": self._describe_frames(error.__traceback__),
        }
        if notes := getattr(error, "__notes__", None):
            description["notes"] = [self._clean_text(str(note)) for note in notes[:_MOST_ERRORS]]
        if isinstance(error, BaseExceptionGroup):
            description["exceptions"] = [
                self.describe(part) for part in error.exceptions if self._is_new(part)
            ]
        return description

    def _describe_frames(self, traceback: TracebackType | None) -> list[dict[str, object]]:
        frames = [(frame.f_code, line) for frame, line in walk_tb(traceback)]
        half = _MOST_FRAMES // 2
        # The way in and the place of the failure tell more than the middle of a recursion.
        kept = frames if len(frames) <= _MOST_FRAMES else frames[:half] + frames[-half:]
        return [
            {
                "file": self._clean_text(code.co_filename),
                "line": line,
                "function": self._clean_text(code.co_qualname),
            }
            for code, line in kept
        ]

    def _is_new(self, error: BaseException) -> bool:
        return id(error) not in self._seen and len(self._seen) < _MOST_ERRORS


def _find_cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _name_type(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def read_message(error: BaseException) -> str:
    """Return what the error says about itself, whatever its code does; of input only what is wrong."""
    try:
        return _describe_refusal(error) or str(error)
    except Exception:  # noqa: BLE001  an error that cannot describe itself is still told
        return "<unprintable>"


def _describe_refusal(error: BaseException) -> str | None:
    """Return what Pydantic or FastAPI says of input, without the input: it may be a password."""
    list_errors = getattr(error, "errors", None)
    entries = list_errors() if callable(list_errors) else None
    if not isinstance(entries, Sequence) or not all(isinstance(entry, Mapping) for entry in entries):
        return None
    told = [_describe_entry(entry) for entry in entries[:_MOST_ERRORS]]
    more = f"; and {len(entries) - len(told)} more" if len(entries) > len(told) else ""
    return f"{len(entries)} validation errors: {'; '.join(told)}{more}"


def _describe_entry(entry: Mapping[Any, object]) -> str:
    loc, kind = entry.get("loc", ()), str(entry.get("type"))
    place = ".".join(map(str, loc)) if isinstance(loc, Sequence) else str(loc)
    return f"{place}: {kind}" if kind in _FREE_TEXT else f"{place}: {entry.get('msg')} ({kind})"


# A validator wrote their text, and may have put the value into it.
_FREE_TEXT = frozenset({"value_error", "assertion_error"})

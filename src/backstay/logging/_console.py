"""Lines for a person at a terminal: time, level, event, `key=value`, and the logger's name at the end."""

import linecache
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import groupby
from pathlib import Path

from backstay import json
from backstay.logging._scrub import escape_control

_RESET, _BOLD, _DIM, _CYAN = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[36m"
_LEVEL_COLORS = {
    "debug": "\x1b[34m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
}
_LEVEL_WIDTH = 8
_EVENT_WIDTH = 28
_LIBRARIES = "/site-packages/"
_SHOWN_LIBRARY_FRAMES = 2
_SHOWN_APART = frozenset({"timestamp", "level", "logger", "event", "exception", "stack"})


def shows_colors(environment: Mapping[str, str]) -> bool:
    """Return whether a terminal with this environment is to be coloured: see no-color.org."""
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


class ConsoleRenderer:
    """Make an event readable. It is given scrubbed fields: what needs escaping is escaped.

    Args:
        colors: Whether to use them.
        encoding: Of the terminal; what it cannot show is written as an escape.
    """

    def __init__(self, *, colors: bool, encoding: str) -> None:
        self._colors = colors
        self._encoding = encoding
        self._directory = f"{Path.cwd()}/"

    def __call__(self, fields: Mapping[str, object]) -> bytes:
        """Return the line of an event, and those of its traceback."""
        lines = [self._render_line(fields)]
        stack = fields.get("stack")
        if isinstance(stack, list):
            lines.extend(f"    {line}" for line in stack)
        exception = fields.get("exception")
        if isinstance(exception, Mapping):
            lines.extend(self._render_exception(exception, "    "))
        return ("\n".join(lines) + "\n").encode(self._encoding, "backslashreplace")

    def _render_line(self, fields: Mapping[str, object]) -> str:
        level = str(fields.get("level", ""))
        parts = [
            self._paint(_local_time(str(fields.get("timestamp", ""))), _DIM),
            self._paint(f"{level:<{_LEVEL_WIDTH}}", _LEVEL_COLORS.get(level, "")),
            self._paint(f"{fields.get('event', '')!s:<{_EVENT_WIDTH}}", _BOLD),
            *(
                f"{self._paint(key, _CYAN)}={_show(value)}"
                for key, value in fields.items()
                if key not in _SHOWN_APART
            ),
            self._paint(f"[{fields.get('logger', '')}]", _DIM),
        ]
        return " ".join(parts)

    def _render_exception(self, exception: Mapping[str, object], indent: str) -> Iterator[str]:
        """Yield lines in Python's own order: the first cause first, the error itself last."""
        causes = exception.get("causes")
        for cause in reversed(causes if isinstance(causes, list) else []):
            yield from self._render_one(cause, indent)
            yield f"{indent}which led to"
        yield from self._render_one(exception, indent)
        exceptions = exception.get("exceptions")
        members = exceptions if isinstance(exceptions, list) else []
        for number, member in enumerate(members, start=1):
            yield f"{indent}  {number} of {len(members)}"
            yield from self._render_exception(member, f"{indent}    ")

    def _render_one(self, exception: Mapping[str, object], indent: str) -> Iterator[str]:
        frames, notes = exception["frames"], exception.get("notes")
        for is_library, group in groupby(frames if isinstance(frames, list) else [], key=_is_library):
            run = list(group)
            if is_library and len(run) > _SHOWN_LIBRARY_FRAMES:
                yield indent + self._paint(_fold(run[:-1]), _DIM)
                run = run[-1:]
            for frame in run:
                yield from self._render_frame(frame, indent)
        yield indent + self._paint(f"{exception['type']}: {exception['message']}", _LEVEL_COLORS["error"])
        yield from (f"{indent}{note}" for note in (notes if isinstance(notes, list) else []))

    def _render_frame(self, frame: Mapping[str, object], indent: str) -> Iterator[str]:
        file, line = str(frame["file"]), int(str(frame["line"]))
        place = f'File "{file.removeprefix(self._directory)}", line {line}, in {frame["function"]}'
        yield indent + self._paint(place, _DIM)
        if source := linecache.getline(file, line).strip():
            yield f"{indent}  {escape_control(source)}"

    def _paint(self, text: str, color: str) -> str:
        return f"{color}{text}{_RESET}" if self._colors and color else text


def _is_library(frame: Mapping[str, object]) -> bool:
    return _LIBRARIES in str(frame["file"])


def _fold(frames: Iterable[Mapping[str, object]]) -> str:
    """Return one line for frames between one's own: which packages the call went through."""
    packages = [str(frame["file"]).rpartition(_LIBRARIES)[2].split("/")[0] for frame in frames]
    return f"… {len(packages)} frames in {', '.join(dict.fromkeys(packages))}"


def _local_time(timestamp: str) -> str:
    """Return the time of day where the reader is; the text itself if a processor has changed its shape."""
    try:
        moment = datetime.fromisoformat(timestamp).astimezone()
    except ValueError:
        return timestamp
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"


def _show(value: object) -> str:
    if not isinstance(value, str):
        return json.dumps(value).decode()
    needs_quotes = not value or any(character in value for character in " =\"'")
    return f'"{value}"' if needs_quotes else value

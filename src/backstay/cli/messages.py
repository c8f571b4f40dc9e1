"""What is said to the person at the terminal: one message, and a hint on a line of its own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb, format_exception
from types import TracebackType

import typer

from backstay.errors import ConfigurationError

__all__ = [
    "NOBODY_READS",
    "complain",
    "find_origin",
    "reporting",
    "say",
    "silence_output",
    "write_error",
]

NOBODY_READS = 141
"""The exit code when the reader of our output went away; what a shell shows for SIGPIPE."""


def say(message: str) -> None:
    """Write talk to standard error."""
    typer.echo(message, err=True)


def complain(message: str, *, hint: str | None = None) -> None:
    """Write an error, and on a line of its own what to do about it."""
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")


@contextmanager
def reporting(*, traceback: bool = False, code: int = 1) -> Iterator[None]:
    """Turn an error inside the block into one message and an exit code.

    Args:
        traceback: Write the whole traceback first, when there is one worth reading.
        code: The exit code.
    """
    try:
        yield
    except (typer.Exit, typer.TyperException):
        raise
    except BrokenPipeError:
        silence_output()
        raise typer.Exit(NOBODY_READS) from None
    except Exception as error:  # noqa: BLE001  the edge: whatever it is, it is told
        write_error(error, traceback=traceback)
        raise typer.Exit(code) from None


def find_origin(error: BaseException) -> BaseException:
    """Return the error inside the groups that task groups wrap around a single one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def write_error(error: BaseException, *, traceback: bool = False) -> None:
    """Write what went wrong: what a wrong setting says of itself, else the error's type, words and place.

    Args:
        error: What was raised.
        traceback: Write the whole traceback first, unless it leads to a wrong setting.
    """
    error = find_origin(error)
    if isinstance(error, ConfigurationError):
        complain(str(error), hint=error.hint)
        return
    if traceback:
        say("".join(format_exception(error)).rstrip())
    complain(summarize(error), hint=_find_hint(error, traceback=traceback))


def _find_hint(error: BaseException, *, traceback: bool) -> str | None:
    if isinstance(error, ModuleNotFoundError):
        return f"Install what provides {error.name}, and add it to the dependencies in pyproject.toml."
    return None if traceback else "--traceback shows the whole way there."


def summarize(error: BaseException) -> str:
    """Return type, words and place of an error, on one line."""
    words, place = " ".join(str(error).split()), _find_place(error.__traceback__)
    if isinstance(error, SyntaxError):
        words, place = error.msg, f"{_shorten(error.filename or '?')}, line {error.lineno}"
    told = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"{told} (in {place})" if place else told


def _find_place(traceback: TracebackType | None) -> str | None:
    """Return file and line where the service's own code was last, else where the error was raised."""
    frames = extract_tb(traceback)
    own = [frame for frame in frames if _is_own(frame.filename)] or frames[-1:]
    return f"{_shorten(own[-1].filename)}, line {own[-1].lineno}" if own else None


def _is_own(filename: str) -> bool:
    path = Path(filename)
    # An environment inside the project's folder holds other people's code.
    return path.is_relative_to(Path.cwd()) and "site-packages" not in path.parts and path.exists()


def _shorten(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def silence_output() -> None:
    """Write no more to standard output: at its end the interpreter would complain of the closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

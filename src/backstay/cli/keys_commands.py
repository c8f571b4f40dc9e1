"""`backstay keys`: its commands and their options; what a command does is imported when it runs."""

# ruff: noqa: PLC0415  so that `--help` is quick

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from backstay.cli.messages import reporting
from backstay.cli.options import AppOption, TracebackOption, explain_when_alone

__all__ = ["keys_commands"]

keys_commands = typer.Typer(rich_markup_mode=None)


class _Algorithm(StrEnum):
    EDDSA = "EdDSA"
    ES256 = "ES256"
    RS256 = "RS256"
    HS256 = "HS256"


_FileArgument = Annotated[
    Path | None,
    typer.Argument(help="The file, instead of the setting security.key_file.", show_default=False),
]
_AlgorithmOption = Annotated[_Algorithm | None, typer.Option(help="What the key is for.", show_default=False)]


@keys_commands.callback(invoke_without_command=True)
def _keys(context: typer.Context) -> None:
    """Make, list and rotate the keys that sign access tokens."""
    explain_when_alone(context)


@keys_commands.command()
def generate(
    file: _FileArgument = None,
    algorithm: _AlgorithmOption = None,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Write a file with a new key; one that is there stays."""
    from backstay.cli.keys import generate_keys

    with reporting(traceback=traceback):
        generate_keys(app, file, algorithm=None if algorithm is None else algorithm.value)


def _read_duration(value: str) -> timedelta:
    from pydantic import TypeAdapter, ValidationError

    from backstay.settings.sections import Duration

    try:
        duration: timedelta = TypeAdapter(Duration).validate_python(value)
    except ValidationError:
        raise typer.BadParameter(f"{value} is no duration; write it like 30m or 1d") from None
    return duration


@keys_commands.command()
def rotate(
    file: _FileArgument = None,
    overlap: Annotated[
        timedelta | None,
        typer.Option(
            parser=_read_duration,
            metavar="DURATION",
            help="How long the new key is published before it signs: 20m, 1d.",
            show_default="20m",
        ),
    ] = None,
    algorithm: _AlgorithmOption = None,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Add a key that signs later; the one before verifies until its last token expires.

    Running services take the change within two seconds, and no token becomes invalid.
    """
    from backstay.cli.keys import rotate_keys

    with reporting(traceback=traceback):
        rotate_keys(app, file, overlap=overlap, algorithm=None if algorithm is None else algorithm.value)


@keys_commands.command(name="list")
def list_(file: _FileArgument = None, app: AppOption = None, traceback: TracebackOption = False) -> None:
    """List the keys: id, algorithm, what it does now, since or until when."""
    from backstay.cli.keys import list_keys

    with reporting(traceback=traceback):
        list_keys(app, file)

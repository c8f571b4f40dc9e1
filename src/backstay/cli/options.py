"""Options that several commands share."""

from typing import Annotated

import typer

from backstay.cli.messages import say

__all__ = ["AppOption", "HostOption", "PortOption", "TracebackOption", "explain_when_alone"]

AppOption = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="MODULE:ATTRIBUTE",
        help="The app, instead of the one that pyproject.toml names.",
        show_default=False,
    ),
]
TracebackOption = Annotated[
    bool, typer.Option("--traceback", help="Show the whole traceback when your code raises.")
]
HostOption = Annotated[
    str | None,
    typer.Option(help="The address to listen on, instead of the setting server.host.", show_default=False),
]
PortOption = Annotated[
    int | None,
    typer.Option(
        help="The port to listen on, instead of the setting server.port; 0 takes a free one.",
        min=0,
        max=65535,
        show_default=False,
    ),
]


def explain_when_alone(context: typer.Context) -> None:
    """Show the help of a group of commands that was called without one of them."""
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(2)

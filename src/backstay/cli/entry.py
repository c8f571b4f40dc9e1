"""The commands and their options; what a command does is imported when it runs, so that `--help` is quick."""

# ruff: noqa: PLC0415  for the same reason

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from backstay.cli.cache_commands import cache_commands
from backstay.cli.database_commands import database_commands
from backstay.cli.keys_commands import keys_commands
from backstay.cli.messages import complain, reporting, silence_output
from backstay.cli.options import AppOption, HostOption, PortOption, TracebackOption, explain_when_alone
from backstay.errors import did_you_mean

__all__ = ["main"]


app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: What follows the program's name; the process' own when None.
    """
    try:
        return _run(arguments)
    except OSError as error:
        silence_output()
        complain(f"The output cannot be written: {error.strerror}.")
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="backstay", standalone_mode=False)
    except typer.TyperException as error:
        complain(_describe_misuse(error), hint=_find_help(error))
        return error.exit_code
    return code if isinstance(code, int) else 0


def _describe_misuse(error: typer.TyperException) -> str:
    known = getattr(error, "possibilities", None)
    if not known:
        return f"{error.format_message().removesuffix('.')}.".replace("?.", "?")
    return f"{error.message}.{did_you_mean(getattr(error, 'option_name', ''), known)}"


def _find_help(error: typer.TyperException) -> str:
    context: typer.Context | None = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'backstay'} --help"


@app.callback(invoke_without_command=True)
def _backstay(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Make, run and look after FastAPI services.

    Commands that need your app find it through [tool.backstay] in the nearest pyproject.toml,
    such as app = "shop.main:app", and run in that file's folder.
    """
    if version:
        from importlib.metadata import version as find_version

        typer.echo(f"backstay {find_version('backstay')}")
        raise typer.Exit
    explain_when_alone(context)


@app.command()
def new(
    folder: Annotated[
        Path, typer.Argument(help="Where to write it; the last part names the service.", show_default=False)
    ],
    traceback: TracebackOption = False,
) -> None:
    """Write a new service into FOLDER."""
    from backstay.cli.new import write_service

    with reporting(traceback=traceback):
        write_service(folder)


@app.command()
def dev(
    app: AppOption = None,
    host: HostOption = None,
    port: PortOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Serve the app while you work on it; a change starts it again."""
    from backstay.cli.development import serve_development

    with reporting(traceback=traceback):
        raise typer.Exit(serve_development(app, host=host, port=port, traceback=traceback))


@app.command()
def run(
    app: AppOption = None,
    host: HostOption = None,
    port: PortOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="How many processes serve, instead of the setting server.workers.", min=1, show_default=False
        ),
    ] = None,
    traceback: TracebackOption = False,
) -> None:
    """Serve the app; SIGTERM lets running requests finish."""
    from backstay.cli.production import serve_production

    with reporting(traceback=traceback):
        raise typer.Exit(serve_production(app, host=host, port=port, workers=workers, traceback=traceback))


app.add_typer(database_commands, name="db")
app.add_typer(cache_commands, name="cache")
app.add_typer(keys_commands, name="keys")


@app.command()
def explain(
    app: AppOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for machines.")] = False,
    traceback: TracebackOption = False,
) -> None:
    """Show each setting with its origin, each part with its reason."""
    from backstay.cli.explain import explain as explain_app

    with reporting(traceback=traceback):
        explain_app(app, as_json=as_json)


def _read_duration(value: str) -> timedelta:
    from pydantic import TypeAdapter, ValidationError

    from backstay.settings.sections import Duration

    try:
        duration: timedelta = TypeAdapter(Duration).validate_python(value)
    except ValidationError:
        raise typer.BadParameter(f"{value} is no duration; write it like 60s or 5m") from None
    if duration < timedelta(seconds=1):
        raise typer.BadParameter(f"{value} is too short; a run takes at least 1s")
    return duration


@app.command()
def check(
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Look at what matters in production too, with these settings.")
    ] = False,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW", help="A check to leave out, such as S37; may come again.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for machines.")] = False,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Tell whether the app can be served, and with --deploy what it lacks before it faces the world.

    Ends with 1 when something is found.
    """
    from backstay.cli.check import check as check_app

    with reporting(traceback=traceback):
        raise typer.Exit(check_app(app, deploy=deploy, ignored=ignore or (), as_json=as_json))


@app.command()
def load(  # noqa: PLR0913, PLR0917  one for each option
    users: Annotated[int, typer.Option(min=1, help="How many use the service at once.")] = 10,
    spawn_rate: Annotated[float, typer.Option(min=0.1, help="How many of them come each second.")] = 10,
    duration: Annotated[
        timedelta, typer.Option(parser=_read_duration, metavar="DURATION", help="How long: 60s, 5m.")
    ] = "30s",  # type: ignore[assignment]  # Typer has it parsed
    against: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where it answers, instead of the settings server.host and server.port.",
            show_default=False,
        ),
    ] = None,
    allow_remote: Annotated[
        str | None,
        typer.Option(
            metavar="HOST",
            help="The host of --against again, when it is not this machine.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write the HTML report.", show_default="build/load.html"),
    ] = None,
    locustfile: Annotated[Path, typer.Option(metavar="FILE", help="What the users do.")] = Path(
        "locustfile.py"
    ),
    web: Annotated[bool, typer.Option("--web", help="Serve Locust's page, and start the run there.")] = False,
    web_port: Annotated[int, typer.Option(min=1, max=65535, help="The port of that page.")] = 8089,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show the result only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON, for machines.")] = False,
    app: AppOption = None,
    traceback: TracebackOption = False,
) -> None:
    """Load the running service with the users of its locustfile.

    Ends with 0 when every route kept its threshold, 1 when one did not, 3 when no run took place.
    """
    from backstay.cli.load import COULD_NOT_RUN, LoadOptions, load_service

    options = LoadOptions(
        locustfile=locustfile,
        users=users,
        spawn_rate=spawn_rate,
        duration=duration,
        report=report,
        against=against,
        allow_remote=allow_remote,
        web_port=web_port if web else None,
        quiet=quiet,
        as_json=as_json,
        traceback=traceback,
    )
    with reporting(traceback=traceback, code=COULD_NOT_RUN):
        raise typer.Exit(load_service(app, options))

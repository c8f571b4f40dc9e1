"""`backstay load`: another process makes the load, this one shows how it goes and says how it went."""

import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path

import typer
from fastapi.routing import iter_route_contexts

from backstay.cli.load_figures import print_verdicts, tell_outcome, tell_server
from backstay.cli.load_process import Generator
from backstay.cli.load_target import find_target, knock
from backstay.cli.load_view import choose_view
from backstay.cli.messages import complain, say
from backstay.cli.project import LoadedApp, enter_project, load_app
from backstay.errors import ConfigurationError
from backstay.json import dumps
from backstay.load.messages import Outcome, Plan
from backstay.load.routes import Route
from backstay.load.server_metrics import MetricsWatch, ServerFigures
from backstay.settings import Settings

__all__ = ["COULD_NOT_RUN", "LoadOptions", "load_service"]

COULD_NOT_RUN = 3
"""The exit code when nothing was measured; 1 says that a threshold was missed."""

_MISSED = 1
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What the command line asks for; see the options of `backstay load`."""

    locustfile: Path
    users: int
    spawn_rate: float
    duration: timedelta
    report: Path | None
    against: str | None
    allow_remote: str | None
    web_port: int | None
    quiet: bool
    as_json: bool
    traceback: bool


def load_service(app: str | None, options: LoadOptions) -> int:
    """Run the service's locustfile, and write what was measured to standard output.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        options: What to run, against what, and what to show.

    Returns:
        The exit code: 0 when every threshold was met, 1 when one was missed, 3 when no run took place, 130
        when it was interrupted.

    Raises:
        ConfigurationError: The app cannot be found, Locust is not installed, or nobody answers.
        typer.Exit: The target is refused; it has been told.
    """
    started_in = Path.cwd()
    loaded = load_app(enter_project(app))
    _require_locust()
    plan = _make_plan(loaded, options, started_in=started_in)
    watch = MetricsWatch(plan.target, token=_find_metrics_token(loaded.settings))
    with choose_view(plan, quiet=options.quiet) as view, watch.watching(), Generator(plan) as generator:
        last = generator.follow(view)
    if isinstance(last, Outcome):
        _tell(last, plan, watch, as_json=options.as_json)
        return _INTERRUPTED if generator.is_interrupted else _judge(last)
    if options.traceback and last.traceback:
        say(last.traceback)
    complain(last.message, hint=last.hint)
    return COULD_NOT_RUN


def _require_locust() -> None:
    # Found, not imported: it would make this process' sockets and threads cooperative.
    if find_spec("locust") is None:
        raise ConfigurationError(
            "Load tests need Locust, which is not installed.", hint="pip install 'backstay[load]'"
        )


def _make_plan(loaded: LoadedApp, options: LoadOptions, *, started_in: Path) -> Plan:
    folder = loaded.project.folder
    locustfile = started_in / options.locustfile
    if not locustfile.is_file():
        locustfile = folder / options.locustfile
    if not locustfile.is_file():
        raise ConfigurationError(
            f"There is no {options.locustfile} in {folder}.",
            hint="Write what your users do into it, or name the file: --locustfile PATH",
        )
    target = find_target(loaded.settings, against=options.against, allow_remote=options.allow_remote)
    knock(target)
    if options.web_port is not None:
        _refuse_taken(options.web_port)
    return Plan(
        locustfile=locustfile,
        import_folder=loaded.project.source_folder,
        target=target.url,
        routes=tuple(_list_routes(loaded)),
        request_id_header=loaded.settings.http.request_id_header,
        users=options.users,
        spawn_rate=options.spawn_rate,
        duration_seconds=options.duration.total_seconds(),
        report=_prepare_report(started_in / options.report if options.report else folder / "build/load.html"),
        web_port=options.web_port,
    )


def _find_metrics_token(settings: Settings) -> str | None:
    token = settings.telemetry.metrics_token
    return None if token is None else token.get_secret_value()


def _list_routes(loaded: LoadedApp) -> Iterator[Route]:
    idempotent = set(loaded.installation.idempotent_routes)
    for context in iter_route_contexts(loaded.asgi.routes):
        for method in sorted(context.methods or ()):
            yield Route(
                method,
                context.path_format or "",
                context.path_regex.pattern,
                is_documented=bool(getattr(context, "include_in_schema", True)),
                takes_key=(method, context.path_format or "") in idempotent,
            )


def _refuse_taken(port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} of 127.0.0.1 cannot be used for Locust's page: {os.strerror(error.errno or 0)}.",
            hint=f"Choose another one: --web-port {port + 1 if port < 65535 else 8089}",
        ) from error


def _prepare_report(path: Path) -> Path:
    """Refuse a place that cannot be written before the run, not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"The report cannot be written to {path}: {error.strerror}.",
            hint="Name another file: --report PATH",
        ) from error
    return path


def _judge(outcome: Outcome) -> int:
    return 0 if outcome.is_met else _MISSED


def _tell(outcome: Outcome, plan: Plan, watch: MetricsWatch, *, as_json: bool) -> None:
    server = watch.summarize()
    if as_json:
        typer.echo(dumps(_describe(outcome, plan, server)))
    else:
        print_verdicts(outcome.verdicts)
    tell_outcome(outcome, plan)
    if server is not None:
        tell_server(server)
    else:
        _tell_blindness(watch)


def _describe(outcome: Outcome, plan: Plan, server: ServerFigures | None) -> dict[str, object]:
    measured = {name: value for name, value in asdict(outcome).items() if name != "kind"}
    return {
        "target": plan.target,
        "is_met": outcome.is_met,
        **measured,
        "server": None if server is None else asdict(server),
        "report": str(plan.report),
    }


def _tell_blindness(watch: MetricsWatch) -> None:
    """Say why nothing is known of the service's own side."""
    if watch.refusal == HTTPStatus.NOT_FOUND:
        say("What the service did meanwhile is not known: its setting telemetry.metrics is off.")
    elif watch.refusal == HTTPStatus.UNAUTHORIZED:
        say(
            "What the service did meanwhile is not known: its setting telemetry.metrics_token is another one."
        )
    else:
        say("What the service did meanwhile is not known: its metrics could not be read.")

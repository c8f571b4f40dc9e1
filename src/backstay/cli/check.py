"""`backstay check`: whether an app can be served, and what it lacks before it faces the world."""

from collections.abc import Sequence

import typer

from backstay.app.deployment import Outcome, Service, check_deployment
from backstay.cli.messages import say
from backstay.cli.project import LoadedApp, enter_project, load_app
from backstay.json import dumps

__all__ = ["check"]


def check(app: str | None, *, deploy: bool, ignored: Sequence[str], as_json: bool) -> int:
    """Write what is found to standard output, and return the exit code.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        deploy: Look at what matters in production too, with the settings as they are.
        ignored: Rows of SECURITY.md that are not looked at.
        as_json: One JSON document, for machines.

    Returns:
        0 when nothing is found, 1 when something is.

    Raises:
        ConfigurationError: The app cannot be found, a setting or a declaration is wrong, or no check has an
            ignored row.
    """
    loaded = load_app(enter_project(app))
    outcomes = check_deployment(_describe(loaded), ignored=ignored) if deploy else []
    found = [outcome for outcome in outcomes if outcome.findings]
    if as_json:
        typer.echo(dumps({"app": loaded.project.reference, "checks": [_tell(one) for one in outcomes]}))
    else:
        _write(found)
        say(_summarize(loaded, outcomes, deploy=deploy))
    return 1 if found else 0


def _describe(loaded: LoadedApp) -> Service:
    return Service(loaded.asgi, loaded.settings, loaded.project.folder, has_policy=loaded.has_policy)


def _tell(outcome: Outcome) -> dict[str, object]:
    return {
        "row": outcome.check.row,
        "claim": outcome.check.claim,
        "findings": [{"message": one.message, "hint": one.hint} for one in outcome.findings],
    }


def _write(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        for finding in outcome.findings:
            typer.echo(f"{outcome.check.row}: {finding.message}\nhint: {finding.hint}")


def _summarize(loaded: LoadedApp, outcomes: Sequence[Outcome], *, deploy: bool) -> str:
    if not deploy:
        return f"{loaded.project.reference} can be served. Before it faces the world: backstay check --deploy"
    kept = sum(not outcome.findings for outcome in outcomes)
    return (
        f"{kept} of {len(outcomes)} checks hold. backstay's SECURITY.md has every row, also those to look at."
    )

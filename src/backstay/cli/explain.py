"""`backstay explain`: every setting with its origin, every part with its reason."""

import sys
from collections.abc import Iterable
from dataclasses import asdict

import typer

from backstay.app._limited_routes import LimitedRoute, limited_routes
from backstay.app._route_policies import RoutePolicy, route_policies
from backstay.app.explanation import Part, parts
from backstay.cli.project import LoadedApp, enter_project, load_app
from backstay.json import dumps
from backstay.redaction import Redactor
from backstay.settings import SettingOrigin, explain_settings

__all__ = ["explain"]


def explain(app: str | None, *, as_json: bool) -> None:
    """Write what the app is made of to standard output.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        as_json: One JSON document, for machines.

    Raises:
        ConfigurationError: The app cannot be found, or a setting is wrong.
    """
    loaded = load_app(enter_project(app))
    origins = explain_settings(loaded.settings, redactor=Redactor(loaded.settings.logging.redact_keys))
    if as_json:
        typer.echo(dumps(_describe(loaded, origins)))
        return
    _write_settings(origins)
    typer.echo()
    for part in _list_parts(loaded):
        typer.echo(part)
    _write_policies(_list_policies(loaded))
    _write_limits(limited_routes(loaded.asgi))


def _describe(loaded: LoadedApp, origins: list[SettingOrigin]) -> dict[str, object]:
    return {
        "app": loaded.project.reference,
        "settings": [asdict(origin) for origin in origins],
        "parts": [asdict(part) for part in _list_parts(loaded)],
        "policies": [asdict(policy) for policy in _list_policies(loaded)],
        "limits": [asdict(limit) for limit in limited_routes(loaded.asgi)],
    }


def _list_parts(loaded: LoadedApp) -> list[Part]:
    options = loaded.installation.identity_options
    return parts(
        loaded.settings,
        has_policy=loaded.has_policy,
        idempotent_routes=len(loaded.installation.idempotent_routes),
        has_accounts=options is not None and options.accounts is not None,
        takes_api_keys=options is not None and options.takes_api_keys,
    )


def _list_policies(loaded: LoadedApp) -> list[RoutePolicy]:
    return route_policies(loaded.asgi, public_paths=loaded.installation.public_paths)


def _write_settings(origins: list[SettingOrigin]) -> None:
    rows = [(one.name, one.value or "empty", one.variable, one.source) for one in origins]
    if sys.stdout.isatty():
        from backstay.cli.tables import print_table  # noqa: PLC0415  Rich costs more than the rest

        print_table(("setting", "value", "variable", "origin"), rows)
    else:
        _write_columns(rows)


def _write_policies(policies: list[RoutePolicy]) -> None:
    if policies:
        typer.echo()
    for one in policies:
        typer.echo(one)


def _write_limits(limits: list[LimitedRoute]) -> None:
    if limits:
        typer.echo()
    for one in limits:
        typer.echo(f"limit on {one.route}: {one}")


def _write_columns(rows: list[tuple[str, str, str, str]]) -> None:
    widths = [max(map(len, column)) for column in _transpose(rows)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _transpose(rows: Iterable[tuple[str, ...]]) -> Iterable[tuple[str, ...]]:
    return zip(*rows, strict=True)

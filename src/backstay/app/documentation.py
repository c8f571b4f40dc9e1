"""Pages for people to read and try the API, served without asking any other host for anything.

Their scripts and styles come from the distribution `fastapi-offline`, whose files are read and whose code is
never imported. The pages have a content security policy of their own: the one of an API would leave them
blank.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final, Self

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from backstay import json
from backstay.errors import ConfigurationError
from backstay.settings import Settings

__all__ = ["add_documentation", "serves_documentation"]

_SOURCE: Final = "fastapi-offline"


def serves_documentation(settings: Settings) -> bool:
    """Return whether a service shows its documentation; unless a setting says, not in production."""
    chosen = settings.http.docs
    return settings.environment != "production" if chosen is None else chosen


def add_documentation(app: FastAPI, *, path: str = "/docs", redoc_path: str | None = None) -> None:
    """Serve Swagger UI at `path` and, when asked for, ReDoc at `redoc_path`.

    Set `docs_url` and `redoc_url` of the app to None, or FastAPI's own pages answer at these paths.

    Raises:
        ConfigurationError: The app has no `openapi_url`, or the assets are not installed.
    """
    if app.openapi_url is None:
        raise ConfigurationError(
            "The documentation pages have nothing to show: the app was made with openapi_url=None.",
            hint="Leave openapi_url out, or switch the pages off too.",
        )
    _add_page(app, path, _SWAGGER)
    if redoc_path is not None:
        _add_page(app, redoc_path, _REDOC)


# ---------------------------------------------------------------- the two pages


@dataclass(frozen=True, slots=True)
class _Page:
    """What makes one kind of page."""

    files: tuple[str, ...]
    start: str
    """JavaScript that fills the page; ADDRESS stands for the address of the OpenAPI document."""
    policy: Mapping[str, str]


_POLICY: Final = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "connect-src": "'self'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "img-src": "'self' data:",
    "script-src": "'self'",
    "style-src": "'self'",
}

_SWAGGER: Final = _Page(
    files=("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"),
    start="""SwaggerUIBundle({
  url: ADDRESS,
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null,
});
""",
    policy=_POLICY,
)

_REDOC: Final = _Page(
    files=("redoc.standalone.js", "favicon.png"),
    start="""Redoc.init(ADDRESS, { disableSearch: true }, document.getElementById("page"));
""",
    # Its styles come from a library that writes them into the page.
    policy={**_POLICY, "style-src": "'self' 'unsafe-inline'"},
)


def _add_page(app: FastAPI, path: str, page: _Page) -> None:
    path = path.rstrip("/")
    above, name = posixpath.split(path)
    assets = _Assets.find(page.files)
    # Relative addresses: a proxy may serve the app under a prefix that the app does not know.
    html = _html(app.title, page, folder=posixpath.join(name, assets.version))
    script = page.start.replace("ADDRESS", _quoted(posixpath.relpath(str(app.openapi_url), above or "/")))
    policy = "; ".join(f"{directive} {sources}" for directive, sources in page.policy.items())
    _serve_text(app, path or "/", html, "text/html", {"Content-Security-Policy": policy})
    _serve_text(app, f"{path}/{assets.version}/start.js", script, "text/javascript", {})
    for file in assets.files:
        _serve_file(app, f"{path}/{assets.version}/{file.name}", file)


def _html(title: str, page: _Page, *, folder: str) -> str:
    script, *others = page.files
    styles = "".join(
        f'<link rel="stylesheet" href="{folder}/{name}">' for name in others if name.endswith(".css")
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="{folder}/favicon.png">
{styles}
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript.</noscript>
<script src="{folder}/{script}"></script>
<script src="{folder}/start.js"></script>
</body>
</html>
"""


def _quoted(text: str) -> str:
    return json.dumps(text).decode()


# ---------------------------------------------------------------- serving


def _serve_text(app: FastAPI, path: str, text: str, media_type: str, headers: Mapping[str, str]) -> None:
    async def serve(_: Request) -> Response:
        return Response(text, media_type=media_type, headers={"Cache-Control": "no-cache", **headers})

    app.add_route(path, serve, methods=["GET"], include_in_schema=False)


def _serve_file(app: FastAPI, path: str, file: Path) -> None:
    async def serve(_: Request) -> Response:
        # The version is in the path, so what is behind it never changes.
        return FileResponse(file, headers={"Cache-Control": "public, max-age=31536000, immutable"})

    app.add_route(path, serve, methods=["GET"], include_in_schema=False)


@dataclass(frozen=True, slots=True)
class _Assets:
    """Files of an installed distribution."""

    version: str
    files: tuple[Path, ...]

    @classmethod
    def find(cls, names: tuple[str, ...]) -> Self:
        try:
            source = distribution(_SOURCE)
        except PackageNotFoundError:
            raise _missing("it is not installed") from None
        files = tuple(Path(str(source.locate_file(f"fastapi_offline/static/{name}"))) for name in names)
        for file in files:
            if not file.is_file():
                raise _missing(f"it has no {file.name}")
        return cls(source.version, files)


def _missing(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"The documentation pages take their scripts from the distribution {_SOURCE}, and {reason}.",
        hint=f"Install it (pip install '{_SOURCE}>=1.7.7'), or switch the pages off.",
    )

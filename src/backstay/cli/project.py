"""Which app a command is about: `[tool.backstay]` of the nearest pyproject.toml, or `--app`."""

import importlib
import os
import pkgutil
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from backstay.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from fastapi import FastAPI

    from backstay.app.installation import Installation
    from backstay.settings import Settings

__all__ = ["LoadedApp", "Project", "enter_project", "load_app"]

_TABLE = '[tool.backstay] with app = "shop.main:app"'


@dataclass(frozen=True, slots=True)
class Project:
    """A service's folder and its app, not imported yet. It can be sent to another process."""

    folder: Path
    module: str
    attribute: str

    @property
    def reference(self) -> str:
        """The app as it is written in pyproject.toml."""
        return f"{self.module}:{self.attribute}"

    @property
    def source_folder(self) -> Path:
        """Where the service's code lies: `src`, or the project's folder when there is none."""
        source = self.folder / "src"
        return source if source.is_dir() else self.folder


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """A service's app, imported."""

    project: Project
    asgi: "FastAPI"
    installation: "Installation"

    @property
    def settings(self) -> "Settings":
        """The settings that the app was made with."""
        return self.installation.settings

    @property
    def has_policy(self) -> bool:
        """Whether `create_app` made it; `install` leaves the answers of an app as they are."""
        return bool(self.installation.response_headers)


def enter_project(app: str | None) -> Project:
    """Find the project, make its folder the working directory and its code importable.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.

    Raises:
        ConfigurationError: There is no project here, or it does not say what its app is.
    """
    pyproject = _find_pyproject(Path.cwd())
    named = _read_app(pyproject) if pyproject else None
    if app is None and named is None:
        raise _explain_missing_app(pyproject)
    folder = pyproject.parent if pyproject and named is not None else Path.cwd()
    module, attribute = _parse_reference(app or named, source="--app" if app else "app in pyproject.toml")
    os.chdir(folder)
    project = Project(folder, module, attribute)
    _make_importable(project)
    return project


def _find_pyproject(start: Path) -> Path | None:
    candidates = (folder / "pyproject.toml" for folder in (start, *start.parents))
    return next((path for path in candidates if path.is_file()), None)


def _read_app(pyproject: Path) -> object:
    """Return what the table says; None when there is no table."""
    try:
        content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{pyproject} is not valid TOML: {error}.", hint="Correct the file."
        ) from error
    tools = content.get("tool")
    table = tools.get("backstay") if isinstance(tools, Mapping) else None
    if table is None:
        return None
    if not isinstance(table, Mapping) or "app" not in table:
        raise ConfigurationError(
            f"[tool.backstay] in {pyproject} does not say what the app is.", hint=_ADD_APP
        )
    return table["app"]


_ADD_APP = 'Add the line app = "shop.main:app", with your module and attribute.'


def _explain_missing_app(pyproject: Path | None) -> ConfigurationError:
    if pyproject is None:
        return ConfigurationError(
            "There is no pyproject.toml here or in a folder above.",
            hint="Change to your service's folder, or make a service: backstay new shop",
        )
    return ConfigurationError(
        f"{pyproject} has no table [tool.backstay].", hint=f"Add {_TABLE}, or pass --app shop.main:app."
    )


def _parse_reference(reference: object, *, source: str) -> tuple[str, str]:
    if isinstance(reference, str):
        module, _, attribute = reference.partition(":")
        if all(name.isidentifier() for name in (*module.split("."), *attribute.split("."))):
            return module, attribute
    raise ConfigurationError(
        f"{source} is {reference!r}, which is not of the form module:attribute.",
        hint="Write it like shop.main:app.",
    )


def _make_importable(project: Project) -> None:
    """Put the folder that holds the package first, so that the code at hand runs, not another copy of it."""
    package = project.module.partition(".")[0]
    for folder in (project.folder / "src", project.folder):
        if (folder / package).is_dir() or (folder / f"{package}.py").is_file():
            sys.path.insert(0, str(folder))
            return


def load_app(project: Project) -> LoadedApp:
    """Import the app.

    Raises:
        ConfigurationError: It is not there, is not one of backstay's, or a setting is wrong.
        Exception: Its code raises.
    """
    found = _find_attribute(_import_module(project), project)
    installation = getattr(getattr(found, "state", None), "backstay", None)
    if installation is None:
        raise _explain_foreign_app(found, project)
    return LoadedApp(project, found, installation)


def _import_module(project: Project) -> ModuleType:
    try:
        return importlib.import_module(project.module)
    except ModuleNotFoundError as error:
        if not f"{project.module}.".startswith(f"{error.name}."):
            raise
        raise _explain_missing_module(project, str(error.name)) from error


def _explain_missing_module(project: Project, missing: str) -> ConfigurationError:
    parent, _, name = missing.rpartition(".")
    paths = list(sys.modules[parent].__path__) if parent else [str(project.source_folder)]
    suggestion = did_you_mean(name, [module.name for module in pkgutil.iter_modules(paths)])
    return ConfigurationError(
        f"The app is said to be {project.reference}, but there is no module {missing}.{suggestion}",
        hint=_CORRECT_APP,
    )


_CORRECT_APP = "Correct app in [tool.backstay] of pyproject.toml, or what you passed as --app."


def _find_attribute(module: ModuleType, project: Project) -> Any:
    found: Any = module
    for name in project.attribute.split("."):
        if not hasattr(found, name):
            suggestion = did_you_mean(name, [known for known in vars(found) if not known.startswith("_")])
            raise ConfigurationError(
                f"The app is said to be {project.reference}, but there is no {name}.{suggestion}",
                hint=_CORRECT_APP,
            )
        found = getattr(found, name)
    return found


def _explain_foreign_app(found: object, project: Project) -> ConfigurationError:
    kind = type(found).__name__
    if isinstance(found, type) or (callable(found) and not hasattr(found, "router")):
        return ConfigurationError(
            f"{project.reference} is a {kind}, not an app.",
            hint="Name the app itself: app = create_app(...) at the end of the module.",
        )
    return ConfigurationError(
        f"{project.reference} is a {kind} without backstay.",
        hint="Make it with backstay.create_app(settings), or call backstay.install(app, settings).",
    )

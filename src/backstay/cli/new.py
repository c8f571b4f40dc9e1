"""`backstay new`: write a service, wholly or not at all.

The files are rendered beside their place and take it with one rename: no failure leaves half a service
behind, and what is there already is never overwritten.
"""

import importlib.util
import keyword
import re
import shlex
import sys
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory
from typing import Final

import typer

from backstay.cli.messages import say
from backstay.errors import ConfigurationError
from backstay.settings import environment_example

__all__ = ["create_service", "write_service"]

_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST_NAME: Final = 40
_FOLDERS_OF_A_SERVICE: Final = frozenset({"migrations", "src", "tests"})


def write_service(folder: Path) -> None:
    """Write a service into a folder, and say how to start it."""
    create_service(folder)
    typer.echo(folder)
    say(f"The service is written. Serve it with:\n\n  cd {shlex.quote(str(folder))}\n  backstay dev\n")


def create_service(target: Path, *, name: str | None = None) -> Path:
    """Write a service into a folder that is not there yet, or is empty, and return the folder's full path.

    Args:
        target: Where to write it; missing folders above it are made.
        name: The service's name; the folder's own when None.

    Raises:
        ConfigurationError: The name cannot be a package's, the folder is in use or cannot be written.
    """
    target = target.resolve()
    name = target.name if name is None else name
    try:
        _refuse_occupied(target)
        _refuse_unusable(name)
        _write(target, name)
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).lower().split())
        raise ConfigurationError(
            f"The service cannot be written to {target}: {reason}.",
            hint="Nothing was left behind; name another folder.",
        ) from error
    return target


def _refuse_occupied(target: Path) -> None:
    is_free = not target.exists() or (target.is_dir() and target != Path.cwd() and not any(target.iterdir()))
    if not is_free:
        raise ConfigurationError(
            f"{target} exists already, and stays as it is.",
            hint="Name a folder that is not there: backstay new shop",
        )


def _refuse_unusable(name: str) -> None:
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ConfigurationError(
            f"{name!r} cannot name a service: its Python package has the same name.",
            hint=f"Use at most {_LONGEST_NAME} lower-case letters, digits and dashes, a letter first: "
            f"backstay new {_suggest(name)}",
        )
    if keyword.iskeyword(package):
        raise ConfigurationError(
            f"{name!r} cannot name a service: it is a word of the Python language.", hint=_take_another(name)
        )
    if package in _FOLDERS_OF_A_SERVICE or _is_module(package):
        raise ConfigurationError(
            f"{name!r} cannot name a service: it would hide another Python module of this name.",
            hint=_take_another(name),
        )


def _take_another(name: str) -> str:
    return f"Take another name: backstay new {name}-service"


def _suggest(name: str) -> str:
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "-".join(words).lstrip("0123456789-")[:_LONGEST_NAME].rstrip("-") or "shop"


def _is_module(package: str) -> bool:
    if package in sys.stdlib_module_names:
        return True
    spec = importlib.util.find_spec(package)
    # Without an origin it is any folder that lies on the path.
    return spec is not None and spec.origin is not None


def _write(target: Path, name: str) -> None:
    with TemporaryDirectory(prefix=f".{name}-", dir=_nearest_folder(target)) as workshop:
        rendered = Path(workshop, name)
        _render(rendered, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        rendered.rename(target)  # onto an empty folder or none; refused by the system otherwise


def _nearest_folder(target: Path) -> Path:
    # A rename needs both places on one file system.
    return next(folder for folder in target.parents if folder.exists())


def _render(folder: Path, name: str) -> None:
    from copier import Settings, run_copy  # noqa: PLC0415 - most of a second, which only `new` pays for

    package = name.replace("-", "_")
    facts = {
        "name": name,
        "package": package,
        "prefix": f"{package.upper()}_",
        "version": version("backstay"),
    }
    with as_file(files("backstay") / "templates" / "service") as template:
        # Settings() instead of the user's own: a service is the same wherever it is made.
        run_copy(str(template), folder, data=facts, settings=Settings(), defaults=True, quiet=True)
    _write_example(folder, package)


def _write_example(folder: Path, package: str) -> None:
    # Run, not imported: that would leave compiled files in the service and a module in this process.
    names = run_path(str(folder / "src" / package / "settings.py"))
    (folder / ".env.example").write_text(environment_example(names["Settings"]), encoding="utf-8")

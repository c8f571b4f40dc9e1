"""What a locustfile says: who uses the service, and what its routes have to keep."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb, format_exception
from types import ModuleType

from locust import User
from locust.util.load_locustfile import load_locustfile

from backstay.errors import BackstayError, ConfigurationError
from backstay.load.messages import Plan
from backstay.load.thresholds import Threshold, check_thresholds

__all__ = ["BrokenLocustfileError", "Scenario", "describe_crash", "format_whole", "load_scenario"]


class BrokenLocustfileError(BackstayError):
    """A locustfile raises when it is imported; the message says where."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a locustfile says."""

    user_classes: Sequence[type[User]]
    thresholds: Mapping[str, Threshold]


def load_scenario(plan: Plan) -> Scenario:
    """Import the plan's locustfile.

    Raises:
        BrokenLocustfileError: It raises.
        ConfigurationError: It has no users, or says something that cannot be followed.
    """
    sys.path.insert(0, str(plan.import_folder))
    try:
        user_classes, shapes = load_locustfile(str(plan.locustfile))
    except ConfigurationError as error:
        place = _find_place(error, folder=plan.locustfile.parent)
        message = f"{str(error).removesuffix('.')} (in {place})."
        raise ConfigurationError(message, hint=error.hint) from error
    except (Exception, SystemExit) as error:
        raise BrokenLocustfileError(describe_crash(error, folder=plan.locustfile.parent)) from error
    name = plan.locustfile.name
    if not user_classes:
        raise ConfigurationError(
            f"{name} has no users: no class in it is a ServiceUser.",
            hint="Write one: class Visitor(ServiceUser), with a method that is marked by @task.",
        )
    if shapes:
        raise ConfigurationError(
            f"{name} has a LoadTestShape, which backstay load does not follow.",
            hint=f"Remove it and use --users and --spawn-rate, or run: locust -f {name}",
        )
    _refuse_idle(user_classes.values(), name=name)
    found = getattr(_find_module(plan.locustfile), "thresholds", {})
    return Scenario(list(user_classes.values()), check_thresholds(found, plan.routes))


def _find_module(path: Path) -> ModuleType:
    # Not by its name: Locust calls a locust.py otherwise.
    modules = list(sys.modules.values())
    return next(module for module in modules if getattr(module, "__file__", None) == str(path))


def _refuse_idle(user_classes: Iterable[type[User]], *, name: str) -> None:
    for user_class in user_classes:
        if not user_class.tasks:
            raise ConfigurationError(
                f"{user_class.__name__} in {name} does nothing: it has no task.",
                hint="Mark what it does with @task, of locust.",
            )


def describe_crash(error: BaseException, *, folder: Path) -> str:
    """Return type, words and place of an error that the service's own code raised, on one line."""
    words = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}{f': {words}' if words else ''} (in {_find_place(error, folder=folder)})"


def _find_place(error: BaseException, *, folder: Path) -> str:
    """Return file and line where the service's own code was last, else where the error was raised."""
    if isinstance(error, SyntaxError):
        path, line = error.filename or "?", error.lineno
    else:
        frames = extract_tb(error.__traceback__)
        own = [frame for frame in frames if _is_own(Path(frame.filename), folder)] or frames[-1:]
        path, line = (own[-1].filename, own[-1].lineno) if own else ("?", None)
    shown = Path(path).relative_to(folder) if Path(path).is_relative_to(folder) else path
    return f"{shown}, line {line}"


def _is_own(path: Path, folder: Path) -> bool:
    # An environment inside the project's folder holds other people's code.
    return path.is_relative_to(folder) and "site-packages" not in path.parts


def format_whole(error: BaseException) -> str:
    """Return the traceback of an error."""
    return "".join(format_exception(error)).rstrip()

"""Load tests: what a service's `locustfile.py` is written with, and what `backstay load` runs it with.

    from backstay.load import ServiceUser, Threshold

`ServiceUser` brings Locust, which makes all sockets and threads of the process that imports it cooperative.
So it is imported at its first use, in the process of `python -m backstay.load` only: a service, its tests and
the command line stay as they are.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backstay.load.thresholds import Threshold as Threshold
    from backstay.load.users import FailedRequestError as FailedRequestError
    from backstay.load.users import ServiceUser as ServiceUser

_MODULES = {
    "FailedRequestError": "backstay.load.users",
    "ServiceUser": "backstay.load.users",
    "Threshold": "backstay.load.thresholds",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605  held against the imports above by a test


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'backstay.load' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

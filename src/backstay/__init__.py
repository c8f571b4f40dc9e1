"""The wiring of a FastAPI service as one library: its parts commit, fail and shut down together.

The front door: each name is imported from its room at its first use, so that `import backstay` stays cheap
and a script that only needs settings does not pay for a web framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backstay.app.application import create_app as create_app
    from backstay.app.application import install as install
    from backstay.app.clients import client as client
    from backstay.app.clients import create_client as create_client
    from backstay.app.conditions import Condition as Condition
    from backstay.app.conditions import ConditionDep as ConditionDep
    from backstay.app.conditions import ETagDep as ETagDep
    from backstay.app.conditions import IfMatchDep as IfMatchDep
    from backstay.app.dependencies import ReadSessionDep as ReadSessionDep
    from backstay.app.dependencies import SessionDep as SessionDep
    from backstay.app.dependencies import repeatable as repeatable
    from backstay.app.health import HealthCheck as HealthCheck
    from backstay.app.idempotency import idempotent as idempotent
    from backstay.app.limits import RateLimit as RateLimit
    from backstay.app.limits import rate_limit as rate_limit
    from backstay.app.problems import Problem as Problem
    from backstay.app.responses import JSONResponse as JSONResponse
    from backstay.app.runtime import Runtime as Runtime
    from backstay.app.runtime import current_runtime as current_runtime
    from backstay.app.runtime import open_runtime as open_runtime
    from backstay.app.schemas import InputSchema as InputSchema
    from backstay.app.schemas import Page as Page
    from backstay.app.schemas import PageDep as PageDep
    from backstay.app.schemas import PageParams as PageParams
    from backstay.app.schemas import PatchSchema as PatchSchema
    from backstay.app.schemas import Schema as Schema
    from backstay.app.schemas import SortParams as SortParams
    from backstay.app.schemas import sort_by as sort_by
    from backstay.app.time_limits import time_limit as time_limit
    from backstay.cache.cached import cached as cached
    from backstay.cache.forgetting import forget as forget
    from backstay.cache.forgetting import invalidates as invalidates
    from backstay.clients import fetch as fetch
    from backstay.db import Database as Database
    from backstay.db.model import Model as Model
    from backstay.db.model import TimestampMixin as TimestampMixin
    from backstay.db.sources import row as row
    from backstay.db.version import VersionMixin as VersionMixin
    from backstay.logging import configure_logging as configure_logging
    from backstay.logging import get_logger as get_logger
    from backstay.redaction import Sensitive as Sensitive
    from backstay.settings import Settings as Settings
    from backstay.settings import SettingsConfigDict as SettingsConfigDict
    from backstay.transaction import after_commit as after_commit

__version__ = "0.1.0"

_ROOMS = {
    "Condition": "backstay.app.conditions",
    "ConditionDep": "backstay.app.conditions",
    "Database": "backstay.db",
    "ETagDep": "backstay.app.conditions",
    "HealthCheck": "backstay.app.health",
    "IfMatchDep": "backstay.app.conditions",
    "InputSchema": "backstay.app.schemas",
    "JSONResponse": "backstay.app.responses",
    "Model": "backstay.db.model",
    "Page": "backstay.app.schemas",
    "PageDep": "backstay.app.schemas",
    "PageParams": "backstay.app.schemas",
    "PatchSchema": "backstay.app.schemas",
    "Problem": "backstay.app.problems",
    "RateLimit": "backstay.app.limits",
    "ReadSessionDep": "backstay.app.dependencies",
    "Runtime": "backstay.app.runtime",
    "Schema": "backstay.app.schemas",
    "Sensitive": "backstay.redaction",
    "SessionDep": "backstay.app.dependencies",
    "Settings": "backstay.settings",
    "SettingsConfigDict": "backstay.settings",
    "SortParams": "backstay.app.schemas",
    "TimestampMixin": "backstay.db.model",
    "VersionMixin": "backstay.db.version",
    "after_commit": "backstay.transaction",
    "cached": "backstay.cache.cached",
    "client": "backstay.app.clients",
    "configure_logging": "backstay.logging",
    "create_app": "backstay.app.application",
    "create_client": "backstay.app.clients",
    "current_runtime": "backstay.app.runtime",
    "forget": "backstay.cache.forgetting",
    "fetch": "backstay.clients",
    "get_logger": "backstay.logging",
    "idempotent": "backstay.app.idempotency",
    "install": "backstay.app.application",
    "invalidates": "backstay.cache.forgetting",
    "open_runtime": "backstay.app.runtime",
    "rate_limit": "backstay.app.limits",
    "repeatable": "backstay.app.dependencies",
    "row": "backstay.db.sources",
    "sort_by": "backstay.app.schemas",
    "time_limit": "backstay.app.time_limits",
}

__all__ = sorted(_ROOMS)  # noqa: PLE0605  held against the imports above by a test


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'backstay' has no attribute {name!r}")
    value = getattr(import_module(_ROOMS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]

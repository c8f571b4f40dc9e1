"""The wiring of a FastAPI service as one library: its parts commit, fail and shut down together.

The front door: each name is imported from its room at its first use, so that `import backstay` stays cheap
and a script that only needs settings does not pay for a web framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backstay.app.accounts import Account as Account
    from backstay.app.accounts import Accounts as Accounts
    from backstay.app.accounts import ResetMessage as ResetMessage
    from backstay.app.accounts import VerificationMessage as VerificationMessage
    from backstay.app.api_keys import issue_api_key as issue_api_key
    from backstay.app.api_keys import list_api_keys as list_api_keys
    from backstay.app.api_keys import revoke_api_key as revoke_api_key
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
    from backstay.app.logins import PasswordsDep as PasswordsDep
    from backstay.app.logins import VerificationDep as VerificationDep
    from backstay.app.logins import revoke_sessions as revoke_sessions
    from backstay.app.ownership import get_owned as get_owned
    from backstay.app.policies import OptionalPrincipalDep as OptionalPrincipalDep
    from backstay.app.policies import PrincipalDep as PrincipalDep
    from backstay.app.policies import guarded_by as guarded_by
    from backstay.app.policies import public as public
    from backstay.app.policies import require_scopes as require_scopes
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
    from backstay.security import Principal as Principal
    from backstay.settings import Settings as Settings
    from backstay.settings import SettingsConfigDict as SettingsConfigDict
    from backstay.transaction import after_commit as after_commit

__version__ = "0.1.0"

_ROOMS = {
    "Account": "backstay.app.accounts",
    "Accounts": "backstay.app.accounts",
    "Condition": "backstay.app.conditions",
    "ConditionDep": "backstay.app.conditions",
    "Database": "backstay.db",
    "ETagDep": "backstay.app.conditions",
    "HealthCheck": "backstay.app.health",
    "IfMatchDep": "backstay.app.conditions",
    "InputSchema": "backstay.app.schemas",
    "JSONResponse": "backstay.app.responses",
    "Model": "backstay.db.model",
    "OptionalPrincipalDep": "backstay.app.policies",
    "Page": "backstay.app.schemas",
    "PageDep": "backstay.app.schemas",
    "PageParams": "backstay.app.schemas",
    "PasswordsDep": "backstay.app.logins",
    "PatchSchema": "backstay.app.schemas",
    "Principal": "backstay.security",
    "PrincipalDep": "backstay.app.policies",
    "Problem": "backstay.app.problems",
    "RateLimit": "backstay.app.limits",
    "ReadSessionDep": "backstay.app.dependencies",
    "ResetMessage": "backstay.app.accounts",
    "Runtime": "backstay.app.runtime",
    "Schema": "backstay.app.schemas",
    "Sensitive": "backstay.redaction",
    "SessionDep": "backstay.app.dependencies",
    "Settings": "backstay.settings",
    "SettingsConfigDict": "backstay.settings",
    "SortParams": "backstay.app.schemas",
    "TimestampMixin": "backstay.db.model",
    "VerificationDep": "backstay.app.logins",
    "VerificationMessage": "backstay.app.accounts",
    "VersionMixin": "backstay.db.version",
    "after_commit": "backstay.transaction",
    "cached": "backstay.cache.cached",
    "client": "backstay.app.clients",
    "configure_logging": "backstay.logging",
    "create_app": "backstay.app.application",
    "create_client": "backstay.app.clients",
    "current_runtime": "backstay.app.runtime",
    "fetch": "backstay.clients",
    "forget": "backstay.cache.forgetting",
    "get_logger": "backstay.logging",
    "get_owned": "backstay.app.ownership",
    "guarded_by": "backstay.app.policies",
    "idempotent": "backstay.app.idempotency",
    "install": "backstay.app.application",
    "invalidates": "backstay.cache.forgetting",
    "issue_api_key": "backstay.app.api_keys",
    "list_api_keys": "backstay.app.api_keys",
    "open_runtime": "backstay.app.runtime",
    "public": "backstay.app.policies",
    "rate_limit": "backstay.app.limits",
    "repeatable": "backstay.app.dependencies",
    "require_scopes": "backstay.app.policies",
    "revoke_api_key": "backstay.app.api_keys",
    "revoke_sessions": "backstay.app.logins",
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

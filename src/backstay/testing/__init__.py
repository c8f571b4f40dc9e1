"""The pytest plugin for services built with backstay.

In the top `conftest.py`: `pytest_plugins = ["backstay.testing"]`. Then tests may ask for

    client          an HTTP client of the app
    live_server     the app behind a real Uvicorn
    app, runtime    the app, and its open parts
    database        the test's own database; what is committed is really committed
    session         a session on it, to arrange rows
    settings        the project's settings for this test; `database_url` is in them
    cache           the app's cache, empty
    authorize       headers of callers that the app knows
    http_mock       the services that the app calls: respx, over backstay's HTTP client
    events          what happened in the test
    assert_queries  how many statements a block sends
    ownership_check  calls each route with an id as its owner, and as somebody else
    migrations_check  the whole history up, down and up, and then no difference to the models

and override `app`, `settings`, `metadata` or `database_template`. Async tests and fixtures need no mark. A
test that fails can be repeated alone: what a `RowFactory` makes up depends on the test's id only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from backstay.testing.apps import LiveServer
from backstay.testing.callers import Authorize
from backstay.testing.migrations import MigrationsCheck
from backstay.testing.ownership import OwnershipCheck
from backstay.testing.recording import Events, assert_queries

if TYPE_CHECKING:
    from backstay.testing._http_mocking import HttpMock
    from backstay.testing.factories import RowFactory, factory_for

__all__ = [
    "Authorize",
    "Events",
    "HttpMock",
    "LiveServer",
    "MigrationsCheck",
    "OwnershipCheck",
    "RowFactory",
    "assert_queries",
    "factory_for",
]

pytest_plugins = [
    "backstay.testing.event_loop",
    "backstay.testing.databases",
    "backstay.testing.apps",
    "backstay.testing.callers",
    "backstay.testing.migrations",
    "backstay.testing.ownership",
    "backstay.testing.recording",
    "backstay.testing.seeding",
    "backstay.testing.upstreams",
]

_LATE = {
    "HttpMock": "backstay.testing._http_mocking",
    "RowFactory": "backstay.testing.factories",
    "factory_for": "backstay.testing.factories",
}


def __getattr__(name: str) -> object:
    """Import polyfactory and respx when they are asked for: both take long."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)

"""The pytest plugin for services built with backstay.

In the top `conftest.py`: `pytest_plugins = ["backstay.testing"]`. Then tests may ask for

    client          an HTTP client of the app
    live_server     the app behind a real Uvicorn
    app, runtime    the app, and its open parts
    database        the test's own database; what is committed is really committed
    session         a session on it, to arrange rows
    settings        the project's settings for this test; `database_url` is in them
    cache           the app's cache, empty
    events          what happened in the test
    assert_queries  how many statements a block sends
    migrations_check  the whole history up, down and up, and then no difference to the models

and override `app`, `settings`, `metadata` or `database_template`. Async tests and fixtures need no mark. A
test that fails can be repeated alone: what a `RowFactory` makes up depends on the test's id only.

Calls to other services are not mocked here yet; that fixture comes with `backstay.clients`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backstay.testing.apps import LiveServer
from backstay.testing.migrations import MigrationsCheck
from backstay.testing.recording import Events, assert_queries

if TYPE_CHECKING:
    from backstay.testing.factories import RowFactory, factory_for

__all__ = ["Events", "LiveServer", "MigrationsCheck", "RowFactory", "assert_queries", "factory_for"]

pytest_plugins = [
    "backstay.testing.event_loop",
    "backstay.testing.databases",
    "backstay.testing.apps",
    "backstay.testing.migrations",
    "backstay.testing.recording",
    "backstay.testing.seeding",
]


def __getattr__(name: str) -> object:
    """Import the factories when they are asked for: polyfactory is slow to import."""
    if name not in ("RowFactory", "factory_for"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from backstay.testing import factories  # noqa: PLC0415  see above

    return getattr(factories, name)

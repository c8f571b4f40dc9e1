"""What `install` leaves on an app: its settings, and the running state that the middleware looks at."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio.lowlevel
from starlette.routing import BaseRoute

from backstay.app._caching import outbox_tables, relaying
from backstay.app._connection_budget import check_connections
from backstay.app._idempotent_operations import check_idempotent_routes, find_idempotent_routes
from backstay.app._in_flight import InFlight, current_exchange
from backstay.app._input_rules import InputRules
from backstay.app._outage import Outage
from backstay.app._sweeping import sweep
from backstay.app.health import HealthCheck
from backstay.app.idempotency import KeyTurns
from backstay.app.metrics import METRICS_PATH
from backstay.app.observation import Observation
from backstay.app.runtime import Runtime, open_runtime
from backstay.app.stopping import Stopping
from backstay.app.time_limits import TimeLimits
from backstay.db import Database
from backstay.db.migrations import Migrations
from backstay.db.model import Model
from backstay.db.records import KeyRecords, LibraryTables, idempotency_table, require_tables
from backstay.errors import UsageError
from backstay.logging import EventDict, Processor, configure_logging
from backstay.settings import Settings
from backstay.telemetry.traces import add_span_ids

if TYPE_CHECKING:
    # What opens these takes long to import, and is only imported for an app that has accounts or API keys.
    from backstay.app._identity import Identity, IdentityOptions

__all__ = ["Installation"]

_logger = logging.getLogger("backstay.app")

_EXPIRE_SECONDS = 60.0
_NEXT_BATCH_SECONDS = 0.2


class Installation:
    """backstay on one app; found as `app.state.backstay`."""

    def __init__(self, settings: Settings, *, routes: Callable[[], Sequence[BaseRoute]] = lambda: ()) -> None:
        self.settings = settings
        self._routes = routes
        self.runtime: Runtime | None = None
        self.observation: Observation | None = None
        self.in_flight: set[InFlight] = set()
        self.outage = Outage()
        self._turns: dict[str | None, asyncio.Lock] = {}
        self.key_turns = KeyTurns(settings.idempotency.wait)
        self.response_headers: tuple[tuple[str, str], ...] = ()
        self.quiet_paths = frozenset({"/livez", "/readyz", METRICS_PATH})
        self.max_body_bytes: int | None = None
        self.input_rules = InputRules.of_installed(settings)
        self.time_limits = TimeLimits.of_installed(settings)
        self.log_processors: tuple[Processor, ...] = ()
        self.stopping = Stopping(self.in_flight)
        self.is_created = False
        self.identity_options: IdentityOptions | None = None
        self.identity: Identity | None = None
        self.public_paths: tuple[str, ...] = ()

    @property
    def request_id_header(self) -> str:
        """The header that carries the request id in and out."""
        return self.settings.http.request_id_header

    @property
    def logs_access(self) -> bool:
        """Whether each request writes a line."""
        return self.settings.logging.access

    @property
    def repeat_attempts(self) -> int:
        """How often a repeatable request runs again at the most."""
        return self.settings.database.repeat_attempts

    def turn_to_repeat(self, route: str | None) -> asyncio.Lock:
        """Return what the repetitions of one route take turns by."""
        return self._turns.setdefault(route, asyncio.Lock())

    @property
    def has_started(self) -> bool:
        """Whether the lifespan runs."""
        return self.runtime is not None

    @property
    def database(self) -> Database:
        """The database of the running service."""
        if self.runtime is None:
            raise UsageError("The service has not started: its lifespan opens the database.")
        return self.runtime.database

    @property
    def key_records(self) -> KeyRecords:
        """The idempotency keys of the running service."""
        return KeyRecords(self.database, self.settings.idempotency)

    @property
    def idempotent_routes(self) -> list[tuple[str, str]]:
        """Method and template of each route that takes an idempotency key."""
        return find_idempotent_routes(self._routes())

    @property
    def library_tables(self) -> LibraryTables:
        """The library's own tables that the service needs."""
        tables = (idempotency_table,) if self.idempotent_routes else ()
        of_identity = () if self.identity_options is None else self.identity_options.tables
        return (*tables, *of_identity, *outbox_tables(self.settings))

    @property
    def migrations(self) -> Migrations:
        """The service's migrations; they bring its own tables and those of the library."""
        return Migrations(
            Model.metadata,
            self.settings.database.migrations,
            settings=self.settings.migrations,
            library_tables=self.library_tables,
        )

    def checks(self) -> tuple[HealthCheck, ...]:
        """The built-in readiness checks."""
        return (HealthCheck("database", self.database.check),)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Runtime]:
        """Open the runtime for the time the app serves."""
        if self.settings.environment != "test":
            self.configure_logging()
        check_idempotent_routes(self._routes())
        async with AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(open_runtime(self.settings))
            observation = await stack.enter_async_context(self._observed(runtime))
            await self._bring_schema_up(runtime.database)
            await check_connections(runtime.database, workers=self.settings.server.workers)
            await stack.enter_async_context(relaying(runtime))
            if self.identity_options is not None:
                self.identity = await stack.enter_async_context(self.identity_options.running(runtime))
            self.runtime, self.observation = runtime, observation
            await anyio.lowlevel.checkpoint()  # its first use imports for up to 0.2 s: not in a request
            self._turns.clear()  # locks belong to the event loop that used them
            self.key_turns = KeyTurns(self.settings.idempotency.wait)
            tasks = (
                runtime.background.start(sweep(self.in_flight), name="backstay.sweeper"),
                runtime.background.start(observation.watch_loop(), name="backstay.loop"),
                runtime.background.start(observation.keep_gauges(), name="backstay.gauges"),
                *self._expiry(runtime),
            )
            try:
                with self.stopping.listening(self.settings):
                    yield runtime
            finally:
                runtime.background.limit_grace(self.stopping.seconds_left())
                for task in tasks:
                    task.cancel()
                self.runtime = self.observation = self.identity = None

    @asynccontextmanager
    async def _observed(self, runtime: Runtime) -> AsyncIterator[Observation]:
        observation = Observation(runtime, self)
        async with observation.running():
            yield observation

    def count_in_flight(self) -> int:
        """Return how many requests are being served; those for the metrics are not among them."""
        return sum(exchange.route != METRICS_PATH for exchange in self.in_flight)

    def current_task(self) -> asyncio.Task[object] | None:
        """Return the task that serves the current request, if there is one."""
        exchange = current_exchange.get()
        return None if exchange is None else exchange.task

    def configure_logging(self) -> None:
        """Put every log line of the process into backstay's shape; each one of a request names it."""
        configure_logging(
            self.settings.logging,
            production=self.settings.environment == "production",
            processors=(*self._span_ids(), add_request, *self.log_processors),
        )

    def _span_ids(self) -> tuple[Processor, ...]:
        return (add_span_ids,) if self.settings.telemetry.traces else ()

    @property
    def upgrades_at_start(self) -> bool:
        """Whether pending migrations run when the service starts, instead of stopping it."""
        wanted = self.settings.database.upgrade_on_start
        return self.settings.environment == "development" if wanted is None else wanted

    async def _bring_schema_up(self, database: Database) -> None:
        if self.settings.environment == "test":
            return  # tests bring their tables themselves
        if self.upgrades_at_start:
            await self.migrations.upgrade(database.engine)
        else:
            await self.migrations.require_current(database.engine)
        if tables := self.library_tables:
            await require_tables(database, tables)

    def _expiry(self, runtime: Runtime) -> tuple[asyncio.Task[object], ...]:
        if not self.idempotent_routes:
            return ()
        return (runtime.background.start(self._expire_keys(), name="backstay.keys"),)

    async def _expire_keys(self) -> None:
        records, pause = self.key_records, _EXPIRE_SECONDS
        while True:
            # Workers that started together do not sweep together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = _EXPIRE_SECONDS
            try:
                pause = _NEXT_BATCH_SECONDS if await records.sweep() else _EXPIRE_SECONDS
            except Exception:
                _logger.warning("Old idempotency keys could not be deleted.", exc_info=True)


def add_request(logger: object, method: str, event: EventDict) -> EventDict:
    """Put the current request's id, route, trace id and caller into a log event."""
    exchange = current_exchange.get()
    if exchange is not None:
        event.setdefault("request_id", exchange.request_id)
        event.setdefault("route", exchange.route)
        if exchange.trace_id is not None:
            event.setdefault("trace_id", exchange.trace_id)
        if exchange.principal is not None:
            event.setdefault("principal", exchange.principal.subject)
    return event

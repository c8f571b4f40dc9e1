"""What a running service measures and tells about itself: joins telemetry to the app's other parts."""

# ruff: noqa: PLC0415  nothing is imported for what is switched off

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from backstay.app.runtime import Runtime
from backstay.db.migrations import Migrations, UnknownRevisionError
from backstay.events import subscribed
from backstay.redaction import Redactor
from backstay.settings import Settings
from backstay.telemetry.event_loop import LoopWatch
from backstay.telemetry.slow_queries import SlowQueries

if TYPE_CHECKING:
    from backstay.telemetry.metrics import Metrics

__all__ = ["Observation", "Observed", "block_limit", "serves_metrics"]

_SHOW_SECONDS = 1.0
_MIGRATIONS_SECONDS = 300.0
_FLUSH_LIMIT = timedelta(seconds=5)
_BLOCK_LIMIT = timedelta(milliseconds=100)

_logger = logging.getLogger("backstay.app")


def serves_metrics(settings: Settings) -> bool:
    """Return whether the service has `/metrics`."""
    if settings.telemetry.metrics is None:
        return settings.environment != "production"
    return settings.telemetry.metrics


def block_limit(settings: Settings) -> timedelta:
    """Return for how long the event loop may be blocked unnoticed; zero is for ever."""
    if settings.telemetry.blocked_loop is None:
        return _BLOCK_LIMIT if settings.environment == "development" else timedelta(0)
    return settings.telemetry.blocked_loop


class Observed(Protocol):
    """What is observed of an app, besides what its runtime tells."""

    @property
    def migrations(self) -> Migrations:
        """The service's migrations."""
        ...

    def count_in_flight(self) -> int:
        """Return how many are being served, scrapes aside."""
        ...

    def current_task(self) -> asyncio.Task[object] | None:
        """Return the task that serves the current one."""
        ...


class Observation:
    """The telemetry of one app, from its start to its stop.

    Attributes:
        metrics: What is counted; None when `/metrics` is off.
        span_mask: Takes secrets out of the spans of requests; None when there are no spans.
    """

    def __init__(self, runtime: Runtime, observed: Observed) -> None:
        self.metrics: Metrics | None = None
        self.span_mask: Redactor | None = None
        self._runtime = runtime
        self._observed = observed
        self._settings = runtime.settings
        self._watch = LoopWatch(block_limit=block_limit(runtime.settings))
        self._pending: int | None = None
        self._revisions: tuple[str, ...] = ()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Observe while the block runs.

        Raises:
            ConfigurationError: What traces or metrics need is missing.
        """
        settings = self._settings.telemetry
        async with AsyncExitStack() as stack:
            if settings.traces:
                await stack.enter_async_context(self._tracing())
            if settings.slow_query:
                slow = SlowQueries(settings.slow_query, find_task=self._observed.current_task)
                stack.enter_context(subscribed(slow.hear, *slow.kinds))
            if serves_metrics(self._settings):
                self.metrics = self._open_metrics(stack)
                stack.callback(setattr, self, "metrics", None)
            yield

    @asynccontextmanager
    async def _tracing(self) -> AsyncIterator[None]:
        from backstay.telemetry.traces import DatabaseSpans, open_traces

        traces = open_traces(self._settings.name)
        self.span_mask = Redactor(self._settings.logging.redact_keys)
        spans = DatabaseSpans("postgresql" if self._runtime.database.is_postgresql else "sqlite")
        try:
            with subscribed(spans.hear, *spans.kinds):
                yield
        finally:
            timeout = min(_FLUSH_LIMIT, self._settings.server.grace)
            await asyncio.to_thread(traces.close, timeout=timeout)

    def _open_metrics(self, stack: AsyncExitStack) -> Metrics:
        from backstay.telemetry.metrics import Metrics

        metrics = Metrics(version=version("backstay"))
        stack.enter_context(subscribed(metrics.hear, *metrics.kinds))
        return metrics

    async def watch_loop(self) -> None:
        """Measure how late the event loop is, and name what blocks it; until cancelled."""
        if self.metrics is not None or block_limit(self._settings):
            await self._watch.run()

    async def keep_gauges(self) -> None:
        """Look at the migrations now and then, and write the gauges for other processes; until cancelled."""
        if self.metrics is None:
            return
        rounds = 0
        while True:
            if rounds % round(_MIGRATIONS_SECONDS / _SHOW_SECONDS) == 0:
                await self._look_at_migrations()
            if self.metrics.is_shared:
                self.show()
            await asyncio.sleep(_SHOW_SECONDS)
            rounds += 1

    async def _look_at_migrations(self) -> None:
        if self._settings.environment == "test":
            return  # tests bring their tables themselves
        migrations = self._observed.migrations
        engine = self._runtime.database.read_engine
        try:
            self._pending = len(await migrations.pending(engine))
            self._revisions = tuple(revision.id for revision in await migrations.current(engine))
        except UnknownRevisionError:
            self._pending, self._revisions = 0, ()  # newer code has migrated, which old code may outlive
        except Exception:
            _logger.warning("The migrations could not be looked at for the metrics.", exc_info=True)

    @property
    def metrics_token(self) -> str | None:
        """What `/metrics` asks for; None when it answers everyone."""
        token = self._settings.telemetry.metrics_token
        return None if token is None else token.get_secret_value()

    def show(self) -> None:
        """Set the gauges of this process to what they are now."""
        from backstay.telemetry.metrics import ServiceState

        if self.metrics is not None:
            state = ServiceState(
                requests_in_flight=self._observed.count_in_flight(),
                pools=self._runtime.database.pools(),
                loop_lag_seconds=self._watch.lag_seconds,
                migrations_pending=self._pending,
                revisions=self._revisions,
            )
            self.metrics.show(state)

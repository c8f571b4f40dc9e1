"""What a service counts for Prometheus, alone or together with the other workers.

Importing this imports prometheus-client, which decides while it is imported whether processes count together:
PROMETHEUS_MULTIPROC_DIR has to be set before.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from backstay.errors import ConfigurationError
from backstay.events import (
    CacheEvent,
    CacheUnavailable,
    ConnectionAwaited,
    Event,
    IdempotencyKeyMet,
    QueryExecuted,
    QueryFailed,
    RequestLimited,
    TransactionCommitted,
    TransactionRolledBack,
    UpstreamCalled,
)
from backstay.telemetry._cache_metrics import CacheMetrics
from backstay.telemetry._folder import FOLDER_VARIABLE, announce_process, drop_ended, list_files
from backstay.telemetry._tallies import Tallies

__all__ = ["Metrics", "PoolState", "ServiceState"]

UNMATCHED = "unmatched"
"""The route of a request that reached none: its path is the caller's, and there are endless many."""

_OTHER_METHOD = "OTHER"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_QUERY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_QUERIES = "backstay_db_query_duration_seconds"


class PoolState(Protocol):
    """How full a pool of connections is."""

    @property
    def name(self) -> str:
        """`writing` or `reading`."""
        ...

    @property
    def checked_out(self) -> int:
        """Connections in use."""
        ...

    @property
    def idle(self) -> int:
        """Connections that are open and free."""
        ...

    @property
    def limit(self) -> int:
        """The most that it may have open."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """What the gauges of one process show.

    Attributes:
        requests_in_flight: Accepted and not yet answered.
        pools: How full the pools are.
        loop_lag_seconds: How late the event loop came in the last 15 seconds, at the most.
        migrations_pending: How many the database lacks; None when that is not known.
        revisions: The migrations that the database is at.
    """

    requests_in_flight: int
    pools: Sequence[PoolState]
    loop_lag_seconds: float
    migrations_pending: int | None = None
    revisions: tuple[str, ...] = ()


class Metrics:
    """The metrics of one service in one process, or of all its workers where they count together.

    Args:
        version: Of this library, for `backstay_build_info`.

    Raises:
        ConfigurationError: PROMETHEUS_MULTIPROC_DIR names something that is not a folder.
    """

    kinds: ClassVar[tuple[type[Event], ...]] = (
        QueryExecuted,
        QueryFailed,
        TransactionCommitted,
        TransactionRolledBack,
        ConnectionAwaited,
        IdempotencyKeyMet,
        RequestLimited,
        *CacheMetrics.kinds,
        UpstreamCalled,
    )

    def __init__(self, *, version: str) -> None:
        folder = _find_folder()
        if folder is None:
            registry = CollectorRegistry()  # our own, so that two apps in a process do not meet
            self._instruments = _Instruments(registry)
            self._counts: _OwnCounts | _SharedCounts = _OwnCounts(registry)
        else:
            announce_process(folder)
            self._instruments = _instruments_of_process()
            self._counts = _SharedCounts(folder)
        self._requests: dict[tuple[str, str | None, int], Callable[[float], None]] = {}
        self._revisions: set[str] = set()
        self._instruments.build.labels(version, platform.python_version()).set(1)

    @property
    def is_shared(self) -> bool:
        """Whether several processes count together, so that each has to write its gauges now and then."""
        return isinstance(self._counts, _SharedCounts)

    def count_request(self, method: str, route: str | None, *, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            method: As it was sent; unknown ones are counted as `OTHER`.
            route: The template of its route; None when it reached none.
            status: Of the answer.
            seconds: From its first byte to the last of the answer.
        """
        key = (method, route, status)
        observe = self._requests.get(key)
        if observe is None:
            observe = self._bind(method, route, status)
        observe(seconds)

    def _bind(self, method: str, route: str | None, status: int) -> Callable[[float], None]:
        is_known = method in _METHODS
        name = method if is_known else _OTHER_METHOD
        child = self._instruments.requests.labels(name, UNMATCHED if route is None else route, str(status))
        if is_known:  # or whoever invents methods fills the memory
            self._requests[method, route, status] = child.observe
        return child.observe

    def hear(self, event: Event) -> None:
        """Count what happened; a subscriber of events."""
        instruments = self._instruments
        match event:
            case QueryExecuted() | QueryFailed():
                instruments.queries.observe(event.seconds)
            case TransactionCommitted():
                instruments.committed.inc()
            case TransactionRolledBack():
                (instruments.rolled_back if event.is_certain else instruments.unknown).inc()
            case ConnectionAwaited():
                instruments.waits.labels(event.pool).observe(event.seconds)
            case IdempotencyKeyMet():
                instruments.keys_met.labels(event.outcome).inc()
            case RequestLimited():
                instruments.limited.labels(event.limit).inc()
            case CacheEvent() | CacheUnavailable():
                instruments.cache.hear(event)
            case UpstreamCalled():
                outcome = event.error or f"{(event.status or 0) // 100}xx"
                instruments.upstream.labels(event.client, outcome).observe(event.seconds)

    def show(self, state: ServiceState) -> None:
        """Set the gauges of this process."""
        instruments = self._instruments
        instruments.in_flight.set(state.requests_in_flight)
        instruments.loop_lag.set(state.loop_lag_seconds)
        for pool in state.pools:
            instruments.connections.labels(pool.name, "checked_out").set(pool.checked_out)
            instruments.connections.labels(pool.name, "idle").set(pool.idle)
            instruments.pool_size.labels(pool.name).set(pool.limit)
        if state.migrations_pending is not None:
            self._show_migrations(state.migrations_pending, set(state.revisions))

    def _show_migrations(self, pending: int, revisions: set[str]) -> None:
        self._instruments.pending.set(pending)
        for revision in self._revisions | revisions:
            # Not removed: files that several processes share cannot forget a label.
            self._instruments.migrations.labels(revision).set(revision in revisions)
        self._revisions |= revisions

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics as text, and its content type. Reads files when processes count together.

        What the service itself registers with prometheus-client is in it.

        Args:
            accept: The header of the request, which chooses between Prometheus' text and OpenMetrics.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._counts), content_type


class _Instruments:
    # As long as the table in docs/guides/observability.md: one instrument after the other.
    def __init__(self, registry: CollectorRegistry | None) -> None:
        self.requests = _make_requests(registry)
        self.in_flight = Gauge(
            "backstay_http_requests_in_flight",
            "Requests that are accepted and not yet answered.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.queries = Histogram(
            _QUERIES,
            "Time that the database took for a statement, refused ones included.",
            buckets=_QUERY_BUCKETS,
            registry=registry,
        )
        transactions = Counter(
            "backstay_db_transactions_total",
            "Transactions that ended; unknown ones lost their connection during COMMIT.",
            ("outcome",),
            registry=registry,
        )
        self.committed = transactions.labels("committed")
        self.rolled_back = transactions.labels("rolled_back")
        self.unknown = transactions.labels("unknown")
        self.connections = Gauge(
            "backstay_db_pool_connections",
            "Open connections to the database, in use or free.",
            ("pool", "state"),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.pool_size = Gauge(
            "backstay_db_pool_size",
            "Connections that the pool may have open at the most, overflow included.",
            ("pool",),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.waits = Histogram(
            "backstay_db_pool_wait_seconds",
            "Time that somebody waited for a connection because all of the pool were in use.",
            ("pool",),
            buckets=_QUERY_BUCKETS,
            registry=registry,
        )
        for pool in ("writing", "reading"):
            self.waits.labels(pool)
        self.keys_met = Counter(
            "backstay_idempotency_keys_met_total",
            "Requests whose idempotency key another one has: replayed, in_use or reused.",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("replayed", "in_use", "reused"):
            self.keys_met.labels(outcome)
        self.limited = Counter(
            "backstay_rate_limited_total",
            "Hits that a rate limit refused, by the template of the limit.",
            ("limit",),
            registry=registry,
        )
        self.cache = CacheMetrics(registry)
        self.upstream = Histogram(
            "backstay_upstream_call_duration_seconds",
            "Time from a call to another service to the end of its answer, by client and outcome.",
            ("client", "outcome"),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.loop_lag = Gauge(
            "backstay_event_loop_lag_seconds",
            "The longest that the event loop came late in the last 15 seconds.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.pending = Gauge(
            "backstay_migrations_pending",
            "Migrations that the database lacks.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.migrations = Gauge(
            "backstay_migrations_info",
            "1 for each migration that the database is at.",
            ("revision",),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.build = Gauge(
            "backstay_build_info",
            "1, for the versions that are running.",
            ("version", "python"),
            multiprocess_mode="livemax",
            registry=registry,
        )


def _make_requests(registry: CollectorRegistry | None) -> Histogram | Tallies:
    name = "backstay_http_request_duration_seconds"
    documentation = "Time from the first byte of a request to the last byte of its answer."
    labels = ("method", "route", "status")
    if registry is None:
        return Histogram(name, documentation, labels, buckets=_REQUEST_BUCKETS, registry=None)
    tallies = Tallies(name, documentation, labels, buckets=_REQUEST_BUCKETS)
    registry.register(tallies)
    return tallies


@cache
def _instruments_of_process() -> _Instruments:
    # In the shared folder a value belongs to the process: a second object for it would count from what the
    # first one had read, and overwrite it.
    return _Instruments(None)


def _find_folder() -> Path | None:
    """Return the folder in which processes count together; None when this one counts for itself."""
    if not getattr(values.ValueClass, "_multiprocess", False):
        return None
    folder = Path(os.environ.get(FOLDER_VARIABLE, ""))
    if not folder.name or not folder.is_dir():
        raise ConfigurationError(
            f"{FOLDER_VARIABLE} is {str(folder)!r}, which is not a folder.",
            hint="Make it before the start, empty, or leave the variable to `backstay run`.",
        )
    return folder


class _OwnCounts:
    """What this process counted, and what the service itself has registered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        yield from _with_queries(_without_times(self._registry.collect()))
        yield from REGISTRY.collect()


class _SharedCounts:
    """What all processes of a folder counted, the service's own metrics among it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        drop_ended(self._folder)
        merged = MultiProcessCollector.merge(list_files(self._folder))  # type: ignore[no-untyped-call]  # it has no types
        yield from _with_queries(merged)


def _with_queries(families: Iterable[Metric]) -> Iterator[Metric]:
    # Taken from the histogram: a counter beside it would cost every statement as much again.
    for family in families:
        yield family
        if family.name == _QUERIES:
            yield _count_queries(family)


def _count_queries(durations: Metric) -> Metric:
    total = sum(sample.value for sample in durations.samples if sample.name == f"{_QUERIES}_count")
    return CounterMetricFamily("backstay_db_queries", "Statements sent to the database.", value=total)


def _without_times(families: Iterable[Metric]) -> Iterator[Metric]:
    """Leave out when each label was first seen: with several processes nobody knows it either."""
    for family in families:
        family.samples = [one for one in family.samples if not one.name.endswith("_created")]
        yield family

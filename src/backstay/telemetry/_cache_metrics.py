"""What the cache does, counted by the template of the key and by the tables that are read."""

from __future__ import annotations

from typing import ClassVar

from prometheus_client import CollectorRegistry, Counter

from backstay.events import (
    CacheBypassed,
    CacheEvent,
    CacheHit,
    CacheIncoherent,
    CacheMissed,
    CacheShared,
    CacheUnavailable,
    CacheValueRefused,
    Event,
)

__all__ = ["CacheMetrics"]


class CacheMetrics:
    """The instruments of the cache.

    Args:
        registry: Where they are registered; None where processes count together.
    """

    kinds: ClassVar[tuple[type[Event], ...]] = (
        CacheBypassed,
        CacheHit,
        CacheIncoherent,
        CacheMissed,
        CacheShared,
        CacheUnavailable,
        CacheValueRefused,
    )

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._reads = Counter(
            "backstay_cache_reads_total",
            "Calls of cached functions, by the template of the key and where the value came from.",
            ("template", "outcome"),
            registry=registry,
        )
        self._table_reads = Counter(
            "backstay_cache_table_reads_total",
            "Calls of cached functions, by each table that they declare to read.",
            ("table", "outcome"),
            registry=registry,
        )
        self._refused = Counter(
            "backstay_cache_refused_total",
            "Values that were not stored, or could not be read: too_large, unfaithful, corrupt, undeclared.",
            ("template", "reason"),
            registry=registry,
        )
        self._unavailable = Counter(
            "backstay_cache_unavailable_total",
            "Operations that the store of the cache did not answer.",
            ("operation",),
            registry=registry,
        )
        self._incoherent = Counter(
            "backstay_cache_incoherent_total",
            "Valid entries that differed from the database when they were compared.",
            ("template",),
            registry=registry,
        )

    def hear(self, event: Event) -> None:
        """Count what happened."""
        match event:
            case CacheHit():
                self._count(event, "hit")
            case CacheMissed():
                self._count(event, "miss" if event.is_stored else "miss_not_stored")
            case CacheShared():
                self._count(event, "shared")
            case CacheBypassed():
                self._count(event, f"bypass_{event.reason}")
            case CacheValueRefused():
                self._refused.labels(event.template, event.reason).inc()
            case CacheIncoherent():
                self._incoherent.labels(event.template).inc()
            case CacheUnavailable():
                self._unavailable.labels(event.operation).inc()

    def _count(self, event: CacheEvent, outcome: str) -> None:
        self._reads.labels(event.template, outcome).inc()
        for table in event.tables:
            self._table_reads.labels(table, outcome).inc()

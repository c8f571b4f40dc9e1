"""The metrics are those that the guide lists, and their labels hold nothing of the caller's."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from backstay.db import PoolUse
from backstay.events import (
    CacheBypassed,
    CacheHit,
    CacheIncoherent,
    CacheMissed,
    CacheShared,
    CacheUnavailable,
    CacheValueRefused,
    ConnectionAwaited,
    IdempotencyKeyMet,
    QueryFailed,
    RequestLimited,
    TransactionRolledBack,
    UpstreamCalled,
)
from backstay.telemetry.metrics import Metrics, ServiceState

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "observability.md"


CACHE_EVENTS = (
    CacheHit(template="user:{user_id}", tables=("users",)),
    CacheMissed(template="user:{user_id}", tables=("users",), is_stored=True),
    CacheMissed(template="user:{user_id}", tables=("users",), is_stored=False),
    CacheShared(template="user:{user_id}", tables=("users",)),
    CacheBypassed(template="user:{user_id}", tables=("users",), reason="changed"),
    CacheValueRefused(template="user:{user_id}", reason="corrupt"),
    CacheIncoherent(template="user:{user_id}"),
    CacheUnavailable(operation="read"),
)


def called(*, status: int | None, error: str | None = None) -> UpstreamCalled:
    return UpstreamCalled(
        client="rates",
        method="GET",
        host="rates.example",
        status=status,
        error=error,
        attempts=1,
        seconds=0.02,
    )


def make_metrics() -> Metrics:
    metrics = Metrics(version="1.2.3")
    metrics.count_request("GET", "/things", status=200, seconds=0.003)
    for event in CACHE_EVENTS:
        metrics.hear(event)
    metrics.hear(RequestLimited(limit="login:{ip}"))
    metrics.hear(called(status=200))
    metrics.show(
        ServiceState(
            requests_in_flight=2,
            pools=[PoolUse("writing", 1, 2, 15), PoolUse("reading", 0, 0, 15)],
            loop_lag_seconds=0.25,
            migrations_pending=0,
            revisions=("1a2b3c",),
        )
    )
    return metrics


def samples_of(metrics: Metrics) -> list[Sample]:
    text = metrics.render("")[0].decode()
    return [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("backstay_")
    ]


def value_of(metrics: Metrics, name: str, **labels: str) -> float:
    (value,) = [one.value for one in samples_of(metrics) if (one.name, one.labels) == (name, labels)]
    return value


def test_the_guide_lists_every_metric_with_its_labels() -> None:
    listed = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(backstay_\w+)` \| ([^|]*)\|", GUIDE.read_text(), re.MULTILINE)
    }

    served: dict[str, set[str]] = {}
    for sample in samples_of(make_metrics()):
        name = re.sub(r"_seconds_(bucket|count|sum)$", "_seconds", sample.name)
        served.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert listed == served


def test_a_duration_falls_into_its_bucket_and_those_above() -> None:
    metrics = make_metrics()
    metrics.count_request("GET", "/things", status=200, seconds=0.0025)
    metrics.count_request("GET", "/things", status=200, seconds=60)

    labels = {"method": "GET", "route": "/things", "status": "200"}
    counts = {
        one.labels["le"]: one.value
        for one in samples_of(metrics)
        if one.name == "backstay_http_request_duration_seconds_bucket"
    }
    assert (counts["0.001"], counts["0.0025"], counts["0.005"], counts["10.0"], counts["+Inf"]) == (
        0,
        1,
        2,
        2,
        3,
    )
    assert value_of(metrics, "backstay_http_request_duration_seconds_count", **labels) == 3
    assert value_of(metrics, "backstay_http_request_duration_seconds_sum", **labels) == 60.0055


def test_whoever_invents_methods_and_paths_makes_no_new_series() -> None:
    metrics = make_metrics()
    before = len(samples_of(metrics))
    for number in range(100):
        metrics.count_request(f"BREW{number}", None, status=404, seconds=0.001)

    one_series = 14 + 2  # buckets, count and sum
    assert len(samples_of(metrics)) == before + one_series


def test_a_pool_that_made_somebody_wait_shows_for_how_long() -> None:
    metrics = make_metrics()
    metrics.hear(ConnectionAwaited(pool="writing", seconds=0.2))

    assert value_of(metrics, "backstay_db_pool_wait_seconds_count", pool="writing") == 1
    assert value_of(metrics, "backstay_db_pool_wait_seconds_sum", pool="writing") == 0.2
    assert value_of(metrics, "backstay_db_pool_wait_seconds_count", pool="reading") == 0


def test_a_refused_statement_and_an_unknown_end_are_counted() -> None:
    metrics = make_metrics()
    metrics.hear(QueryFailed(statement="SELECT", seconds=2, error="LockNotAvailableError"))
    metrics.hear(TransactionRolledBack(is_certain=False))

    assert value_of(metrics, "backstay_db_queries_total") == 1
    assert value_of(metrics, "backstay_db_transactions_total", outcome="unknown") == 1


def test_a_key_that_another_request_has_is_counted_by_what_came_of_it() -> None:
    metrics = make_metrics()
    metrics.hear(IdempotencyKeyMet(route="/orders", outcome="replayed"))

    assert value_of(metrics, "backstay_idempotency_keys_met_total", outcome="replayed") == 1


def test_reads_through_the_cache_are_counted_by_template_and_by_table() -> None:
    metrics = make_metrics()

    for outcome in ("hit", "miss", "miss_not_stored", "shared", "bypass_changed"):
        assert (
            value_of(metrics, "backstay_cache_reads_total", template="user:{user_id}", outcome=outcome) == 1
        )
        assert value_of(metrics, "backstay_cache_table_reads_total", table="users", outcome=outcome) == 1


def test_a_database_that_moved_on_shows_its_new_migration_only() -> None:
    metrics = make_metrics()
    state = ServiceState(requests_in_flight=0, pools=[], loop_lag_seconds=0)
    metrics.show(state)
    assert value_of(metrics, "backstay_migrations_info", revision="1a2b3c") == 1

    metrics.show(
        ServiceState(
            requests_in_flight=0, pools=[], loop_lag_seconds=0, migrations_pending=0, revisions=("4d5e6f",)
        )
    )
    assert value_of(metrics, "backstay_migrations_info", revision="1a2b3c") == 0
    assert value_of(metrics, "backstay_migrations_info", revision="4d5e6f") == 1


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (called(status=503), "5xx"),
        (called(status=None, error="upstream_timeout"), "upstream_timeout"),
        (called(status=200, error="upstream_answer"), "upstream_answer"),
    ],
)
def test_a_call_counts_by_its_status_or_by_what_went_wrong(event: UpstreamCalled, outcome: str) -> None:
    metrics = make_metrics()

    metrics.hear(event)

    name = "backstay_upstream_call_duration_seconds_count"
    assert value_of(metrics, name, client="rates", outcome=outcome) == 1

from typing import Any

import pytest

from backstay.load.server_metrics import MetricsWatch, ServerFigures, parse_metrics

_PAGE = """\
# HELP backstay_db_queries_total Queries.
# TYPE backstay_db_queries_total counter
backstay_db_queries_total {queries}
backstay_db_transactions_total{{outcome="committed"}} {commits}
backstay_db_transactions_total{{outcome="rolled_back"}} 1.0
backstay_http_request_duration_seconds_count{{route="/products/{{product_id}}",status="200"}} {requests}
backstay_http_request_duration_seconds_count{{method="GET",route="/metrics",status="200"}} {used}
backstay_http_request_duration_seconds_count{{method="GET",route="unmatched",status="404"}} {used}
backstay_db_pool_connections{{pool="writing",state="checked_out",pid="1"}} {used}
backstay_db_pool_connections{{pool="writing",state="checked_out",pid="2"}} 2.0
backstay_db_pool_connections{{pool="writing",state="idle"}} 8.0
backstay_db_pool_connections{{pool="reading",state="checked_out"}} 0.0
backstay_db_pool_size{{pool="writing"}} 10.0
backstay_event_loop_lag_seconds {lag}
"""


def test_figures_are_the_difference_between_the_first_look_and_the_last(service: Any) -> None:
    watch = MetricsWatch(service.url)
    service.metrics = _PAGE.format(queries=100, commits=10, requests=50, used=1, lag=0.25)
    with watch.watching():
        service.metrics = _PAGE.format(queries="1.3e+02", commits=25, requests=60, used=5, lag=0.01)

    figures = watch.summarize()
    assert figures == ServerFigures(
        requests=10,
        queries=30,
        commits=15,
        rollbacks=0,
        most_connections={"writing": 7, "reading": 0},
        pool_sizes={"writing": 10},
        worst_loop_lag_seconds=0.25,
    )
    assert figures.queries_per_request == 3


def test_a_run_without_requests_has_no_queries_per_request(service: Any) -> None:
    watch = MetricsWatch(service.url)
    service.metrics = ""
    with watch.watching():
        pass

    figures = watch.summarize()
    assert figures is not None
    assert (figures.queries_per_request, figures.worst_loop_lag_seconds) == (0, 0)


def test_a_service_that_tells_nothing_is_asked_no_further(service: Any) -> None:
    watch = MetricsWatch(service.url)
    with watch.watching():
        pass

    assert watch.summarize() is None
    assert watch.refusal == 404


def test_a_service_that_is_gone_is_no_error() -> None:
    watch = MetricsWatch("http://127.0.0.1:1")
    with watch.watching():
        pass

    assert (watch.summarize(), watch.refusal) == (None, None)


def test_the_token_is_shown(service: Any) -> None:
    service.metrics = ""
    with MetricsWatch(service.url, token="t-1").watching():
        pass

    assert set(service.authorization) == {"Bearer t-1"}


@pytest.mark.parametrize(
    ("line", "samples"),
    [
        ('name{a="x",b="y, z=\\"w\\"}"} 1', [("name", {"a": "x", "b": 'y, z=\\"w\\"}'}, 1.0)]),
        ("name 1.5e-3 1700000000", [("name", {}, 0.0015)]),
        ("name +Inf", [("name", {}, float("inf"))]),
        ("# TYPE name counter", []),
        ("", []),
        ("<html>", []),
        ("name one", []),
    ],
)
def test_lines_of_the_text_format_are_read_and_others_passed_over(line: str, samples: list[Any]) -> None:
    assert [(one.name, one.labels, one.value) for one in parse_metrics(line)] == samples

"""Metrics and traces of a service: what Prometheus scrapes at `/metrics`, and the spans that leave by OTLP.

Every name of ours begins with `backstay_` and ends with its unit; the labels hold values from small fixed
sets, never what a caller sent.

    backstay_http_request_duration_seconds{method, route, status}    histogram
    backstay_http_requests_in_flight                                 gauge
    backstay_db_pool_connections{pool="writing|reading", state="checked_out|idle"}    gauge
    backstay_db_pool_size{pool}                                      gauge
    backstay_db_transactions_total{outcome="committed|rolled_back|unknown"}           counter
    backstay_db_queries_total                                        counter
    backstay_db_query_duration_seconds                               histogram
    backstay_upstream_call_duration_seconds{client, outcome="2xx|4xx|…|upstream_timeout|…"}    histogram
    backstay_event_loop_lag_seconds                                  gauge
    backstay_migrations_pending                                      gauge
    backstay_migrations_info{revision}                               gauge, always 1
    backstay_build_info{version, python}                             gauge, always 1

docs/guides/observability.md says what each means, and how they add up over several workers.
"""

from backstay.telemetry._folder import FOLDER_VARIABLE, counting_together

__all__ = ["FOLDER_VARIABLE", "counting_together"]

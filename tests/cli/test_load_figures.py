from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backstay.cli.load_figures import format_milliseconds, print_verdicts, tell_outcome, tell_server
from backstay.cli.load_view import choose_view
from backstay.load.messages import Crash, Failure, Outcome, Plan, Progress, RouteFigures
from backstay.load.server_metrics import ServerFigures
from backstay.load.thresholds import Threshold, judge

PLAN = Plan(
    locustfile=Path("locustfile.py"),
    import_folder=Path("src"),
    target="http://127.0.0.1:8000",
    routes=(),
    request_id_header="X-Request-ID",
    users=3,
    spawn_rate=1,
    duration_seconds=60,
    report=Path("build/load.html"),
    web_port=None,
)
FIGURES = RouteFigures(
    method="GET",
    route="/products",
    requests=1200,
    failures=3,
    p50_milliseconds=4.56,
    p95_milliseconds=2340,
    requests_per_second=20,
)
OUTCOME = Outcome(
    elapsed_seconds=60,
    verdicts=tuple(judge([FIGURES], {"GET /users": Threshold()})),
    failures=tuple(Failure(name=f"GET /{n}", message="503", count=n) for n in range(1, 13)),
    crashes=(Crash(message="KeyError: 'key' (in locustfile.py, line 3)", count=2),),
    is_generator_busy=True,
)


def test_each_route_is_a_row_of_its_own(capsys: Any) -> None:
    print_verdicts(OUTCOME.verdicts)

    assert capsys.readouterr().out == (
        "route          requests      p50       p95  limit      errors  verdict\n"
        "GET /products     1,200  4.56 ms  2,340 ms      -  3 (0.25 %)  too many errors\n"
        "GET /users            0        -         -      -           0  no request\n"
    )


def test_what_failed_is_told_the_most_frequent_first_and_not_without_end(capsys: Any) -> None:
    tell_outcome(OUTCOME, PLAN)

    first, *lines = capsys.readouterr().err.splitlines()
    assert first == ("1,200 requests in 60 of 60 s, 20.0 each second; 3 failed. The report: build/load.html")
    assert lines[0] == "12 x GET /12: 503"
    assert lines[9] == "3 x GET /3: 503"
    assert lines[10:] == [
        "2 more kinds of failures are in the report.",
        "2 x the locustfile raised KeyError: 'key' (in locustfile.py, line 3)",
        "The process that makes the load had no time left: the response times are partly its own.",
    ]


def test_a_run_that_raised_is_not_met() -> None:
    assert not replace(OUTCOME, verdicts=()).is_met
    assert replace(OUTCOME, verdicts=(), crashes=()).is_met


def test_the_service_s_own_account_is_one_line(capsys: Any) -> None:
    tell_server(
        ServerFigures(
            requests=100,
            queries=250,
            commits=1,
            rollbacks=0,
            most_connections={"writing": 2, "reading": 15},
            pool_sizes={"writing": 15, "reading": 15},
            worst_loop_lag_seconds=0.0324,
        )
    )

    assert capsys.readouterr().err == (
        "The service meanwhile: 1 commit, 0 rollbacks, 2.5 queries per request; at most 2 of 15 writing, "
        "15 of 15 reading connections were seen in use; the loop's worst lag 32.4 ms.\n"
    )


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(None, "-"), (0.5, "0.5 ms"), (4.5678, "4.57 ms"), (154, "154 ms"), (12_300, "12,300 ms")],
)
def test_a_time_has_three_digits(milliseconds: float | None, words: str) -> None:
    assert format_milliseconds(milliseconds) == words


def test_where_nobody_looks_at_a_terminal_a_line_comes_every_five_seconds(capsys: Any) -> None:
    with choose_view(PLAN, quiet=False) as view:
        for seconds in range(1, 11):
            view.show(Progress(elapsed_seconds=seconds, users=1, routes=(FIGURES,)))
        view.say("hello")

    assert capsys.readouterr().err.splitlines() == [
        "5 s: 1 user, 1,200 requests, 3 failed, 20.0/s",
        "10 s: 1 user, 1,200 requests, 3 failed, 20.0/s",
        "hello",
    ]


def test_a_quiet_run_shows_what_the_locustfile_wrote_and_nothing_else(capsys: Any) -> None:
    with choose_view(PLAN, quiet=True) as view:
        view.show(Progress(elapsed_seconds=9, users=1, routes=()))
        view.say("hello")

    assert capsys.readouterr().err == "hello\n"

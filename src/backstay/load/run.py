"""The process that makes the load: it reads a plan, runs it with Locust and tells how it goes."""

import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from types import SimpleNamespace
from typing import BinaryIO

import gevent  # type: ignore[import-untyped]  # it ships no types
from gevent.event import Event  # type: ignore[import-untyped]  # it ships no types
from locust import stats
from locust.html import get_html_report
from locust.runners import LocalRunner
from locust.stats import StatsEntry, stats_history

from backstay.errors import ConfigurationError
from backstay.load.messages import (
    Crash,
    Failure,
    Message,
    Outcome,
    Plan,
    Progress,
    Refusal,
    RouteFigures,
    read_plan,
    write_message,
)
from backstay.load.scenario import (
    BrokenLocustfileError,
    Scenario,
    describe_crash,
    format_whole,
    load_scenario,
)
from backstay.load.thresholds import judge
from backstay.load.users import LoadEnvironment

__all__ = ["main"]

_TELL_SECONDS = 1.0
_FINISH_SECONDS = 5.0
"""How long users may finish what they are in the middle of when the time is over."""


def main() -> int:
    """Run the plan that comes by standard input, and tell by standard output; SIGTERM ends it early.

    Returns:
        The exit code: 0 when a run took place.
    """
    stop = Event()
    gevent.signal_handler(signal.SIGTERM, stop.set)
    with _claiming_output() as output:
        plan = read_plan(sys.stdin.buffer.readline())
        try:
            scenario = load_scenario(plan)
        except ConfigurationError as error:
            _send(output, Refusal(message=str(error), hint=error.hint))
            return 1
        except BrokenLocustfileError as error:
            _send(output, _refuse_broken(error, plan))
            return 1
        # Whoever started us may be gone: then nobody wants to know, and the load ends.
        with suppress(BrokenPipeError):
            _Run(plan, scenario).follow(stop, output)
    return 0


@contextmanager
def _claiming_output() -> Iterator[BinaryIO]:
    """Keep standard output for messages; what a locustfile prints goes to standard error."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as output:
        os.dup2(2, 1)
        yield output


def _send(output: BinaryIO, message: Message) -> None:
    output.write(write_message(message))


def _refuse_broken(error: BrokenLocustfileError, plan: Plan) -> Refusal:
    return Refusal(
        message=f"{plan.locustfile.name} cannot be imported: {error}.",
        hint=None,
        traceback=format_whole(error.__cause__ or error),
    )


class _Run:
    """One load test."""

    def __init__(self, plan: Plan, scenario: Scenario) -> None:
        self._plan = plan
        self._scenario = scenario
        self._crashes: Counter[str] = Counter()
        self._environment = LoadEnvironment(
            plan.routes,
            request_id_header=plan.request_id_header,
            user_classes=[*scenario.user_classes],
            host=plan.target,
            locustfile=plan.locustfile.name,
            stop_timeout=_FINISH_SECONDS,
        )
        events = self._environment.events
        events.user_error.add_listener(self._note_crash)  # type: ignore[no-untyped-call]  # Locust has no types here
        events.test_start.add_listener(self._begin)  # type: ignore[no-untyped-call]  # nor here
        self._runner: LocalRunner = self._environment.create_local_runner()
        self._began = 0.0

    def follow(self, stop: Event, output: BinaryIO) -> None:
        """Make the load until its time is over or somebody stops it, then tell how it ended."""
        _prepare_locust()
        self._runner.greenlet.spawn(stats_history, self._runner)
        self._began = monotonic()
        if self._plan.web_port is None:
            self._runner.start(self._plan.users, spawn_rate=self._plan.spawn_rate)
        else:
            self._serve_page(self._plan.web_port)
        try:
            while (left := self._find_time_left()) > 0 and not stop.wait(timeout=min(left, _TELL_SECONDS)):
                _send(output, self._describe_progress())
        finally:
            seconds = monotonic() - self._began
            self._runner.stop()
        self._write_report()
        _send(output, self._describe_outcome(seconds))

    def _find_time_left(self) -> float:
        # Locust's page has a clock of its own.
        if self._plan.web_port is not None:
            return _TELL_SECONDS
        return self._began + self._plan.duration_seconds - monotonic()

    def _serve_page(self, port: int) -> None:
        # Locust's page fills its form from what its own command line would have said.
        self._environment.parsed_options = SimpleNamespace(
            num_users=self._plan.users,
            spawn_rate=self._plan.spawn_rate,
            run_time=f"{self._plan.duration_seconds:g}",
            stats_history_enabled=False,
            headless=False,
        )
        self._environment.create_web_ui("127.0.0.1", port)

    def _begin(self, **_: object) -> None:
        """Start the clock, and aim at the plan's target: any page in a browser can fill in Locust's form."""
        self._began = monotonic()
        self._environment.host = self._plan.target

    def _note_crash(self, *, exception: BaseException, **_: object) -> None:
        self._crashes[describe_crash(exception, folder=self._plan.locustfile.parent)] += 1

    def _describe_progress(self) -> Progress:
        return Progress(
            elapsed_seconds=monotonic() - self._began,
            users=self._runner.user_count,
            routes=tuple(self._describe_routes(is_over=False)),
        )

    def _describe_routes(self, *, is_over: bool) -> list[RouteFigures]:
        entries: Sequence[StatsEntry] = sorted(
            self._environment.stats.entries.values(), key=lambda entry: (entry.name, entry.method)
        )
        return [_describe_route(entry, is_over=is_over) for entry in entries]

    def _describe_outcome(self, seconds: float) -> Outcome:
        return Outcome(
            elapsed_seconds=seconds,
            verdicts=tuple(judge(self._describe_routes(is_over=True), self._scenario.thresholds)),
            failures=tuple(
                Failure(name=f"{one.method} {one.name}", message=_say(one.error), count=one.occurrences)
                for one in self._environment.stats.errors.values()
            ),
            crashes=tuple(Crash(message=message, count=count) for message, count in self._crashes.items()),
            is_generator_busy=self._runner.cpu_warning_emitted,
        )

    def _write_report(self) -> None:
        self._plan.report.parent.mkdir(parents=True, exist_ok=True)
        page = get_html_report(self._environment)  # type: ignore[no-untyped-call]  # Locust has no types here
        self._plan.report.write_text(page, encoding="utf-8")


def _prepare_locust() -> None:
    """Let Locust measure to three digits, and leave the telling to us."""
    stats.bucket_response_time = _round_to_three_digits  # type: ignore[assignment]  # its own are whole
    stats.HISTORY_STATS_INTERVAL_SEC = 1
    # It writes a traceback for each time that a user's code raises; we count them.
    logging.getLogger("locust.user").setLevel(logging.CRITICAL)
    logging.getLogger().setLevel(logging.ERROR)


def _round_to_three_digits(milliseconds: float) -> float:
    """Return the key that a response time is counted under; Locust's own would make 154 ms of 150."""
    return float(f"{milliseconds:.3g}")


def _describe_route(entry: StatsEntry, *, is_over: bool) -> RouteFigures:
    return RouteFigures(
        method=entry.method,
        route=entry.name,
        requests=entry.num_requests,
        failures=entry.num_failures,
        p50_milliseconds=entry.get_response_time_percentile(0.5),
        p95_milliseconds=entry.get_response_time_percentile(0.95),
        requests_per_second=entry.total_rps if is_over else entry.current_rps,
    )


def _say(error: object) -> str:
    return " ".join(str(error).split())

"""The process that makes the load: it reads a plan, runs it with Locust and tells how it goes."""

import logging
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterator
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
_RATE_LOOKS = 6
"""How many looks the shown rate spans; they are a second apart."""

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
        events.test_stopping.add_listener(self._end)  # type: ignore[no-untyped-call]  # nor here
        self._runner: LocalRunner = self._environment.create_local_runner()
        self._began = 0.0
        self._ended: float | None = None
        self._looks: deque[tuple[float, dict[str, int]]] = deque(maxlen=_RATE_LOOKS)

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
            self._runner.stop()
        self._write_report()
        _send(output, self._describe_outcome())

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
        self._began, self._ended = monotonic(), None
        self._environment.host = self._plan.target

    def _end(self, **_: object) -> None:
        self._ended = monotonic()

    def _note_crash(self, *, exception: BaseException, **_: object) -> None:
        self._crashes[describe_crash(exception, folder=self._plan.locustfile.parent)] += 1

    def _describe_progress(self) -> Progress:
        """Return how it stands. Rates are those of the last seconds, and 0 when nothing is answered any more.

        Locust's own go back from the last answer, so that a service that stands still seems to go on.
        """
        now, entries = monotonic(), self._list_entries()
        self._looks.append((now, {_name(entry): entry.num_requests for entry in entries}))
        since, before = self._looks[0] if len(self._looks) > 1 else (self._began, {})
        return Progress(
            elapsed_seconds=now - self._began,
            users=self._runner.user_count,
            routes=tuple(
                _describe_route(
                    entry, count=entry.num_requests - before.get(_name(entry), 0), seconds=now - since
                )
                for entry in entries
            ),
        )

    def _list_entries(self) -> list[StatsEntry]:
        entries = self._environment.stats.entries.values()
        return sorted(entries, key=lambda entry: (entry.name, entry.method))

    def _describe_outcome(self) -> Outcome:
        seconds = (self._ended or monotonic()) - self._began
        figures = [
            _describe_route(entry, count=entry.num_requests, seconds=seconds)
            for entry in self._list_entries()
        ]
        return Outcome(
            elapsed_seconds=seconds,
            verdicts=tuple(judge(figures, self._scenario.thresholds)),
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


def _name(entry: StatsEntry) -> str:
    return f"{entry.method} {entry.name}"


def _describe_route(entry: StatsEntry, *, count: int, seconds: float) -> RouteFigures:
    return RouteFigures(
        method=entry.method,
        route=entry.name,
        requests=entry.num_requests,
        failures=entry.num_failures,
        p50_milliseconds=entry.get_response_time_percentile(0.5),
        p95_milliseconds=entry.get_response_time_percentile(0.95),
        requests_per_second=count / seconds if seconds else 0.0,
    )


def _say(error: object) -> str:
    return " ".join(str(error).split())

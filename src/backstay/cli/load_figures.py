"""The figures of a load test for a reader: the result on standard output, what it means on standard error."""

from collections.abc import Sequence

import typer

from backstay.cli.messages import say
from backstay.load.messages import Outcome, Plan, Progress, RouteFigures, Verdict
from backstay.load.server_metrics import ServerFigures

__all__ = [
    "describe_progress",
    "format_errors",
    "format_milliseconds",
    "print_verdicts",
    "tell_outcome",
    "tell_server",
]

_SHOWN = 10
"""Kinds of failures that are told; the report has all of them."""

_TITLES = ("route", "requests", "p50", "p95", "limit", "errors", "verdict")


def describe_progress(progress: Progress) -> str:
    """Return how it stands, on one line."""
    requests = sum(one.requests for one in progress.routes)
    failures = sum(one.failures for one in progress.routes)
    rate = sum(one.requests_per_second for one in progress.routes)
    return (
        f"{_count(progress.users, 'user')}, {_count(requests, 'request')}, {failures:,} failed, {rate:.1f}/s"
    )


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Write what was measured at each route to standard output, with its limit and verdict."""
    rows = [_TITLES, *map(_describe_verdict, verdicts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        name, *numbers, verdict = zip(row, widths, strict=True)
        cells = [name[0].ljust(name[1]), *(cell.rjust(width) for cell, width in numbers), verdict[0]]
        typer.echo("  ".join(cells).rstrip())


def _describe_verdict(verdict: Verdict) -> tuple[str, ...]:
    figures = verdict.figures
    limit = verdict.p95_limit_milliseconds
    return (
        figures.name,
        f"{figures.requests:,}",
        format_milliseconds(figures.p50_milliseconds if figures.requests else None),
        format_milliseconds(figures.p95_milliseconds if figures.requests else None),
        format_milliseconds(limit),
        format_errors(figures),
        ", ".join(verdict.shortcomings) or "met",
    )


def format_milliseconds(milliseconds: float | None) -> str:
    """Return a response time for a reader, a dash when there is none."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def format_errors(figures: RouteFigures) -> str:
    """Return how many requests failed, and their share."""
    return (
        f"{figures.failures:,} ({100 * figures.failures / figures.requests:.3g} %)"
        if figures.failures
        else "0"
    )


def tell_outcome(outcome: Outcome, plan: Plan) -> None:
    """Say what the table does not: the sum, what failed and why, and where the report is."""
    figures = [verdict.figures for verdict in outcome.verdicts]
    requests, failures = sum(one.requests for one in figures), sum(one.failures for one in figures)
    rate = sum(one.requests_per_second for one in figures)
    # One with Locust's page takes as long as somebody lets it.
    planned = f" of {plan.duration_seconds:g}" if plan.web_port is None else ""
    say(
        f"{_count(requests, 'request')} in {outcome.elapsed_seconds:.0f}{planned} s, {rate:.1f} each second; "
        f"{failures:,} failed. The report: {plan.report}"
    )
    for failure in sorted(outcome.failures, key=lambda one: -one.count)[:_SHOWN]:
        say(f"{failure.count:,} x {failure.name}: {failure.message}")
    if len(outcome.failures) > _SHOWN:
        say(f"{len(outcome.failures) - _SHOWN} more kinds of failures are in the report.")
    for crash in outcome.crashes:
        say(f"{crash.count:,} x the locustfile raised {crash.message}")
    if outcome.is_generator_busy:
        say("The process that makes the load had no time left: the response times are partly its own.")


def tell_server(figures: ServerFigures) -> None:
    """Say what the database and the event loop did meanwhile, by the service's own account."""
    pools = ", ".join(
        f"{most} of {figures.pool_sizes.get(pool, 0)} {pool}"
        for pool, most in figures.most_connections.items()
    )
    say(
        f"The service meanwhile: {_count(figures.commits, 'commit')}, "
        f"{_count(figures.rollbacks, 'rollback')}, {figures.queries_per_request:.1f} queries per request; "
        f"at most {pools or 'no'} connections were seen in use; "
        f"the loop's worst lag {format_milliseconds(figures.worst_loop_lag_seconds * 1000)}."
    )


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"

"""What a route has to keep under load, and whether it did."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from backstay.errors import ConfigurationError, did_you_mean
from backstay.load.messages import RouteFigures, Verdict
from backstay.load.routes import Route

__all__ = ["Threshold", "check_thresholds", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What a route has to keep under load: `Threshold(p95=timedelta(milliseconds=200), errors=0.01)`.

    Args:
        p95: 95 of 100 requests are answered within it; None sets no limit.
        errors: The share of requests that may fail, 0 to 1.

    Raises:
        ConfigurationError: A value is of another kind, or outside its limits.
    """

    p95: timedelta | None = None
    errors: float = 0.0

    def __post_init__(self) -> None:
        if self.p95 is not None and not (isinstance(self.p95, timedelta) and self.p95 > timedelta(0)):
            raise ConfigurationError(
                f"A threshold's p95 is {self.p95!r}, which is no positive duration.",
                hint="Write it like Threshold(p95=timedelta(milliseconds=200)).",
            )
        if not (isinstance(self.errors, (int, float)) and 0 <= self.errors <= 1):
            raise ConfigurationError(
                f"A threshold's errors is {self.errors!r}, which is no share from 0 to 1.",
                hint="Write one request in a hundred like Threshold(errors=0.01).",
            )


_UNNAMED = Threshold()


def check_thresholds(found: object, routes: Sequence[Route]) -> dict[str, Threshold]:
    """Return what a locustfile calls `thresholds`, once it is sure that each of them can be judged.

    Args:
        found: What it says.
        routes: Those of the service.

    Raises:
        ConfigurationError: It is no mapping of routes to thresholds, or names a route that is not there.
    """
    if not isinstance(found, Mapping) or not all(isinstance(one, Threshold) for one in found.values()):
        raise ConfigurationError(
            "thresholds is not a mapping of routes to thresholds.",
            hint='Write it like thresholds = {"GET /products": Threshold(errors=0.01)}.',
        )
    known = [route.name for route in routes]
    for name in map(str, found):
        if name not in known:
            raise ConfigurationError(
                f"thresholds names {name!r}, which is no route of the service.{did_you_mean(name, known)}",
                hint=f"The routes are: {', '.join(route.name for route in routes if route.is_documented)}.",
            )
    return dict(found)


def judge(figures: Sequence[RouteFigures], thresholds: Mapping[str, Threshold]) -> list[Verdict]:
    """Return a verdict for each route that was asked or has a threshold, by name.

    A route without a threshold may take its time, but may not fail. One with a threshold that nobody asked
    has missed it: nothing was measured.
    """
    asked = {one.name: one for one in figures}
    unasked = {name: RouteFigures.none(name) for name in thresholds if name not in asked}
    rows = sorted((asked | unasked).values(), key=lambda one: (one.route, one.method))
    return [_judge_route(one, thresholds.get(one.name, _UNNAMED)) for one in rows]


def _judge_route(figures: RouteFigures, threshold: Threshold) -> Verdict:
    return Verdict(
        figures=figures,
        p95_limit_milliseconds=threshold.p95 / timedelta(milliseconds=1) if threshold.p95 else None,
        error_limit=threshold.errors,
        shortcomings=tuple(_find_shortcomings(figures, threshold)),
    )


def _find_shortcomings(figures: RouteFigures, threshold: Threshold) -> Iterator[str]:
    if not figures.requests:
        yield "no request"
        return
    if threshold.p95 and timedelta(milliseconds=figures.p95_milliseconds) > threshold.p95:
        yield "too slow"
    if figures.failures > threshold.errors * figures.requests:
        yield "too many errors"

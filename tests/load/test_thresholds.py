from datetime import timedelta
from typing import Any

import pytest

from backstay.errors import ConfigurationError
from backstay.load import Threshold
from backstay.load.messages import RouteFigures
from backstay.load.routes import Route
from backstay.load.thresholds import check_thresholds, judge

SOON = timedelta(milliseconds=200)
ROUTES = [
    Route("GET", "/products", "^/products$"),
    Route("GET", "/livez", "^/livez$", is_documented=False),
]


def figures(*, requests: int = 100, failures: int = 0, p95: float = 150) -> RouteFigures:
    return RouteFigures(
        method="GET",
        route="/products",
        requests=requests,
        failures=failures,
        p50_milliseconds=p95 / 2,
        p95_milliseconds=p95,
        requests_per_second=10,
    )


@pytest.mark.parametrize(
    ("measured", "threshold", "shortcomings"),
    [
        (figures(), Threshold(p95=SOON), ()),
        (figures(p95=200), Threshold(p95=SOON), ()),
        (figures(p95=201), Threshold(p95=SOON), ("too slow",)),
        (figures(failures=1), Threshold(errors=0.01), ()),
        (figures(failures=2), Threshold(errors=0.01), ("too many errors",)),
        (figures(failures=1), Threshold(p95=SOON), ("too many errors",)),
        (figures(failures=2, p95=900), Threshold(p95=SOON), ("too slow", "too many errors")),
        (figures(failures=100), Threshold(errors=1), ()),
    ],
)
def test_a_route_is_held_to_what_its_threshold_says(
    measured: RouteFigures, threshold: Threshold, shortcomings: tuple[str, ...]
) -> None:
    (verdict,) = judge([measured], {"GET /products": threshold})

    assert verdict.shortcomings == shortcomings


def test_a_route_that_nobody_asked_has_missed_its_threshold() -> None:
    (verdict,) = judge([], {"GET /products": Threshold(p95=SOON)})

    assert verdict.shortcomings == ("no request",)
    assert (verdict.figures.name, verdict.figures.requests) == ("GET /products", 0)


def test_a_route_without_a_threshold_may_take_its_time_and_may_not_fail() -> None:
    (slow,) = judge([figures(p95=60_000)], {})
    (failing,) = judge([figures(failures=1)], {})

    assert (slow.shortcomings, failing.shortcomings) == ((), ("too many errors",))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"p95": 200}, "p95 is 200, which is no positive duration"),
        ({"p95": timedelta(0)}, "no positive duration"),
        ({"errors": 5}, "errors is 5, which is no share from 0 to 1"),
        ({"errors": "1%"}, "errors is '1%', which is no share"),
    ],
)
def test_a_threshold_that_cannot_be_meant_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        Threshold(**values)

    assert "Threshold(" in str(raised.value.hint)


def test_a_route_that_the_service_does_not_have_is_refused_with_those_that_it_documents() -> None:
    with pytest.raises(ConfigurationError, match="'GET /product', which is no route") as raised:
        check_thresholds({"GET /product": Threshold()}, ROUTES)

    assert "Did you mean 'GET /products'?" in str(raised.value)
    assert raised.value.hint == "The routes are: GET /products."


@pytest.mark.parametrize("found", [3, [Threshold()], {"GET /products": 0.01}])
def test_what_is_no_mapping_of_routes_to_thresholds_is_refused(found: object) -> None:
    with pytest.raises(ConfigurationError, match="not a mapping of routes to thresholds"):
        check_thresholds(found, ROUTES)


def test_a_route_outside_the_documents_may_have_a_threshold() -> None:
    assert check_thresholds({"GET /livez": Threshold()}, ROUTES) == {"GET /livez": Threshold()}

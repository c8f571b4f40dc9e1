"""What the service did under load, by its own account: `/metrics`, read before, meanwhile and after."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from threading import Event, Thread
from typing import Final
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

__all__ = ["MetricsWatch", "ServerFigures", "parse_metrics"]

_INTERVAL_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 5.0

_REQUESTS: Final = "backstay_http_request_duration_seconds_count"
_TRANSACTIONS: Final = "backstay_db_transactions_total"

_NOT_OF_THE_LOAD: Final = frozenset({"/metrics", "unmatched"})
"""Routes that the load does not ask: our own looks, and what reaches no route."""

_LINE: Final = re.compile(
    r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?"
    r"\s+(?P<value>[-+]?(?:\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|Inf|NaN))(?:\s+-?\d+)?"
)
_LABEL: Final = re.compile(r'(?P<name>[a-zA-Z_]\w*)="(?P<value>(?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One number that a service tells of itself."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse_metrics(text: str) -> list[Sample]:
    """Return what a page in Prometheus' text format says; lines in another form are passed over."""
    return [sample for line in text.splitlines() if (sample := _parse_line(line)) is not None]


def _parse_line(line: str) -> Sample | None:
    found = _LINE.fullmatch(line.strip())
    if found is None:
        return None
    labels = {label["name"]: label["value"] for label in _LABEL.finditer(found["labels"] or "")}
    return Sample(found["name"], labels, float(found["value"]))


_Choice = Callable[[Mapping[str, str]], bool]


def _choose_all(labels: Mapping[str, str]) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """What the service did during a run, over all of its workers."""

    requests: int
    queries: int
    commits: int
    rollbacks: int
    most_connections: Mapping[str, int]
    """By pool, the most that were in use at once, of those times at which it was looked at."""
    pool_sizes: Mapping[str, int]
    worst_loop_lag_seconds: float

    @property
    def queries_per_request(self) -> float:
        """How many queries a request took on average; 0 when there was none."""
        return self.queries / self.requests if self.requests else 0.0


class MetricsWatch:
    """Looks at `/metrics` about once a second.

    Args:
        url: The service's URL, without a slash at its end.
        token: What the service wants to see before it tells; None when it tells everybody.
    """

    def __init__(self, url: str, *, token: str | None = None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._request = Request(f"{url}/metrics", headers=headers)  # noqa: S310  http or https: whoever made it has looked
        # The load goes to the service itself; so do we, whatever proxy the environment names.
        self._opener = build_opener(ProxyHandler({}))
        self._looks: list[list[Sample]] = []
        self.refusal: int | None = None
        """The status that the service last answered with instead of metrics, such as 404 or 401."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at once, meanwhile, and at the end of the block; not again when there is nothing to see."""
        over = Event()
        self._look()
        thread = Thread(target=self._keep_looking, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._look()

    def _keep_looking(self, over: Event) -> None:
        while self.refusal is None and not over.wait(_INTERVAL_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            with self._opener.open(self._request, timeout=_PATIENCE_SECONDS) as answer:
                self._looks.append(parse_metrics(answer.read().decode()))
        except HTTPError as error:
            self.refusal = error.code
            error.close()
        except (OSError, HTTPException, UnicodeDecodeError):
            pass  # a service under load may miss a look

    def summarize(self) -> ServerFigures | None:
        """Return what happened between the first look and the last; None when fewer than two succeeded."""
        if len(self._looks) < 2:
            return None
        return ServerFigures(
            requests=self._count(
                _REQUESTS, is_chosen=lambda labels: labels.get("route") not in _NOT_OF_THE_LOAD
            ),
            queries=self._count("backstay_db_queries_total"),
            commits=self._count(_TRANSACTIONS, is_chosen=lambda labels: labels.get("outcome") == "committed"),
            rollbacks=self._count(
                _TRANSACTIONS, is_chosen=lambda labels: labels.get("outcome") == "rolled_back"
            ),
            most_connections=self._find_most(
                "backstay_db_pool_connections", is_chosen=lambda labels: labels.get("state") == "checked_out"
            ),
            pool_sizes=self._find_most("backstay_db_pool_size"),
            worst_loop_lag_seconds=max(self._list("backstay_event_loop_lag_seconds"), default=0.0),
        )

    def _count(self, name: str, *, is_chosen: _Choice = _choose_all) -> int:
        before, after = (
            sum(one.value for one in look if one.name == name and is_chosen(one.labels))
            for look in (self._looks[0], self._looks[-1])
        )
        return round(after - before)

    def _find_most(self, name: str, *, is_chosen: _Choice = _choose_all) -> dict[str, int]:
        most: dict[str, int] = {}
        for look in self._looks:
            # The workers' own pools, added up.
            pools: Counter[str] = Counter()
            for one in look:
                if one.name == name and is_chosen(one.labels):
                    pools[one.labels.get("pool", "")] += round(one.value)
            most |= {pool: max(count, most.get(pool, 0)) for pool, count in pools.items()}
        return most

    def _list(self, name: str) -> list[float]:
        return [one.value for look in self._looks for one in look if one.name == name]

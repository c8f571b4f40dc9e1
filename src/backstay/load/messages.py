"""What `backstay load` and the process that makes the load tell each other: JSON, one message a line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, TypeAdapter

from backstay.load.routes import Route

__all__ = [
    "Crash",
    "Failure",
    "Message",
    "Outcome",
    "Plan",
    "Progress",
    "Refusal",
    "RouteFigures",
    "Verdict",
    "read_message",
    "read_plan",
    "write_message",
    "write_plan",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run, and against what.

    Args:
        locustfile: The full path of what the users do.
        import_folder: Where the service's own code can be imported from.
        target: The service's URL, without a slash at its end.
        routes: The service's routes, in the order in which it looks for one.
        request_id_header: The header by which it takes a request's id.
        users: How many there are at once.
        spawn_rate: How many of them come each second.
        duration_seconds: How long it takes, from the first of them on.
        report: Where the HTML report is written; folders above it are made.
        web_port: Where Locust's page is served on 127.0.0.1, and waits to be told; None starts at once.
    """

    locustfile: Path
    import_folder: Path
    target: str
    routes: tuple[Route, ...]
    request_id_header: str
    users: int
    spawn_rate: float
    duration_seconds: float
    report: Path
    web_port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFigures:
    """What was measured at one route so far; response times in milliseconds, to three digits."""

    method: str
    route: str
    requests: int
    failures: int
    p50_milliseconds: float
    p95_milliseconds: float
    requests_per_second: float

    @property
    def name(self) -> str:
        """The route as thresholds name it."""
        return f"{self.method} {self.route}"

    @classmethod
    def none(cls, name: str) -> Self:
        """Return the figures of a route that nobody asked."""
        method, _, route = name.partition(" ")
        return cls(
            method=method,
            route=route,
            requests=0,
            failures=0,
            p50_milliseconds=0,
            p95_milliseconds=0,
            requests_per_second=0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was measured at one route, what it had to keep, and where it fell short."""

    figures: RouteFigures
    p95_limit_milliseconds: float | None
    error_limit: float
    shortcomings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Requests that failed in the same way."""

    name: str
    message: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """An error that the locustfile's own code raised, and how often."""

    message: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How it stands; sent about once a second."""

    kind: Literal["progress"] = "progress"
    elapsed_seconds: float
    users: int
    routes: tuple[RouteFigures, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended; the last message of a run that took place."""

    kind: Literal["outcome"] = "outcome"
    elapsed_seconds: float
    verdicts: tuple[Verdict, ...]
    failures: tuple[Failure, ...]
    crashes: tuple[Crash, ...]
    is_generator_busy: bool
    """Whether the process that made the load had no time left: then the figures are its own."""

    @property
    def is_met(self) -> bool:
        """Whether every route kept what it had to, and the users could do what they wanted."""
        return not self.crashes and not any(verdict.shortcomings for verdict in self.verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why no run took place; the only message then."""

    kind: Literal["refusal"] = "refusal"
    message: str
    hint: str | None
    traceback: str | None = None


Message = Progress | Outcome | Refusal

_plan: Final = TypeAdapter(Plan)
_message: Final[TypeAdapter[Message]] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def write_plan(plan: Plan) -> bytes:
    """Return the plan as one line."""
    return _plan.dump_json(plan) + b"\n"


def read_plan(line: bytes) -> Plan:
    """Return what `write_plan` wrote."""
    return _plan.validate_json(line)


def write_message(message: Message) -> bytes:
    """Return the message as one line."""
    return _message.dump_json(message) + b"\n"


def read_message(line: bytes) -> Message:
    """Return what `write_message` wrote."""
    return _message.validate_json(line)

"""Rate limits on routes and in them.

docs/decisions/0009-rate-limits.md says how hits are counted. FastAPI reads the annotations of what it calls,
so they are no strings here.
"""

from datetime import timedelta
from typing import Final

from fastapi.params import Depends
from starlette.exceptions import WebSocketException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from backstay import events
from backstay.app._in_flight import current_exchange
from backstay.app._limit_record import LimitRecord, whole_seconds
from backstay.app._limit_templates import LimitTemplate
from backstay.app._principals import find_owner
from backstay.app.runtime import current_runtime
from backstay.cache.limits import Quota, Verdict, WhenUnavailable, parse_duration
from backstay.errors import ConfigurationError, RateLimitedError

__all__ = ["LimitCheck", "RateLimit", "rate_limit"]

_HIGHEST: Final = 10_000
_TRY_AGAIN_LATER: Final = 1013  # of RFC 6455's registry


def rate_limit(
    template: str, *, limit: int, per: str | timedelta, when_unavailable: WhenUnavailable = "local"
) -> "RateLimit":
    """Return a limit on how often something may happen, for a route or for a part of one.

        @router.post("/login", dependencies=[rate_limit("login:{ip}", limit=5, per="15m")])

        reset_limit = rate_limit("reset:{email}", limit=3, per="1h")
        await reset_limit.hit(email=form.email.casefold())

    In no span of `per` are more than `limit` hits admitted, over all processes when `cache.url` names a
    Redis. What is over it is answered with 429. A refused hit does not count.

    Args:
        template: What is counted by: `{ip}`, `{principal}`, `{api_key}`, path parameters,
            `{header.x-tenant}`, `{query.page}`, and any name that `hit` is given a value for. Limits that
            have template, limit and span in common count together.
        limit: 1 to 10000.
        per: The length of the span: `15m`, `500ms`, `1w`.
        when_unavailable: While Redis is away, `local` counts in each process alone, so that up to as many
            times the limit are admitted as there are processes; `open` admits everything.

    Raises:
        ConfigurationError: One of these is not what it should be.
    """
    parsed = LimitTemplate.parse(template)
    _check_limit(template, limit)
    span = parse_duration(per, of=f"`per` of the rate limit {template!r}")
    if when_unavailable not in ("local", "open"):
        raise ConfigurationError(
            f"`when_unavailable` of the rate limit {template!r} is {when_unavailable!r}; it is 'local' or "
            "'open'."
        )
    return RateLimit(LimitCheck(parsed, Quota.of(limit, span), when_unavailable))


def _check_limit(template: str, limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _HIGHEST:
        raise ConfigurationError(
            f"`limit` of the rate limit {template!r} is {limit!r}; it is a whole number, 1 to {_HIGHEST}.",
            hint="Each hit is remembered for as long as it counts: for more of them, choose a shorter `per`.",
        )


class RateLimit(Depends):
    """A limit, made by `rate_limit`; a route has it in its `dependencies`, a function calls `hit`."""

    dependency: "LimitCheck"

    def __init__(self, check: "LimitCheck") -> None:
        super().__init__(check)

    async def hit(self, **values: object) -> None:
        """Count a hit, or raise when it is one too many.

        Args:
            **values: By the names in the template: text, whole numbers, booleans or UUIDs.

        Raises:
            RateLimitedError: It is one too many; answered with 429 and `Retry-After`.
            UsageError: A value is missing, is of another kind, or has no place in the template.
        """
        exchange = current_exchange.get()
        if exchange is None:
            await self.dependency.hit(None, None, values)
        else:
            await self.dependency.hit(exchange.routed, exchange.limits, values)


class LimitCheck:
    """What FastAPI calls for a route that has a limit.

    Attributes:
        template: What is counted by.
        quota: How often.
        when_unavailable: What happens while Redis is away.
    """

    def __init__(self, template: LimitTemplate, quota: Quota, when_unavailable: WhenUnavailable) -> None:
        self.template = template
        self.quota = quota
        self.when_unavailable: WhenUnavailable = when_unavailable
        self._prefix = f"{quota.limit}/{quota.per_us}:"

    async def __call__(self, connection: HTTPConnection) -> None:
        """Count a request of the route."""
        exchange = connection.scope.get("backstay.exchange")
        try:
            await self.hit(connection.scope, None if exchange is None else exchange.limits, {})
        except RateLimitedError as error:
            if connection.scope["type"] != "websocket":
                raise
            raise WebSocketException(_TRY_AGAIN_LATER, "Too many requests") from error

    async def hit(self, scope: Scope | None, record: LimitRecord | None, values: dict[str, object]) -> None:
        """Count a hit, or raise when it is one too many."""
        if scope is not None and self.template.asks_who_calls:
            await find_owner(HTTPConnection(scope))
        key = self._prefix + self.template.expand(scope, values)
        verdict = await self._judge(key, record)
        if record is not None:
            record.show(self.template.text, self.quota, verdict)
        if verdict is not None and not verdict.is_admitted:
            raise self._refuse(verdict)

    async def _judge(self, key: str, record: LimitRecord | None) -> Verdict | None:
        for verdict in record.recall(key) if record is not None else ():
            return verdict
        verdict = await current_runtime().limits.hit(key, self.quota, when_unavailable=self.when_unavailable)
        if record is not None:
            record.keep(key, verdict)
        return verdict

    def _refuse(self, verdict: Verdict) -> RateLimitedError:
        if events.is_watched(events.RequestLimited):
            events.emit(events.RequestLimited(limit=self.template.text))
        seconds = whole_seconds(verdict.seconds)
        unit = "second" if seconds == 1 else "seconds"
        return RateLimitedError(
            f"Too many requests; try again in {seconds} {unit}.", headers={"Retry-After": str(seconds)}
        )

"""How long a request may take: by setting, by what its caller says, and by a marker on its route.

docs/decisions/0016-deadlines.md says what happens when the time is over. FastAPI reads the annotations of
what it calls, so they are no strings here.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address, ip_network
from math import inf
from typing import Final, Self

from fastapi.params import Depends
from starlette.requests import HTTPConnection
from starlette.types import Scope

from backstay.app._request_call import RequestCall
from backstay.cache.limits import parse_duration
from backstay.settings import Settings

__all__ = ["TimeLimits", "time_limit"]

_DEFAULT: Final = timedelta(seconds=30)
_LONGEST_DIGITS: Final = 9


class TimeLimits:
    """Gives each request its call.

    Args:
        limit: For all of them; none when zero.
        header: In which trusted callers say how many milliseconds they wait; none when empty.
        trusted: Addresses and networks of those callers; `*` for anyone.

    Attributes:
        limit_seconds: For all of them; infinite without one.
    """

    def __init__(self, limit: timedelta, *, header: str, trusted: Sequence[str]) -> None:
        self.limit_seconds = limit.total_seconds() or inf
        self._header = header.lower().encode() if trusted else b""
        self._trusted = _Callers(trusted)

    @classmethod
    def of_created(cls, settings: Settings) -> Self:
        """Return those of an app that `create_app` makes."""
        return cls._of(settings, default=_DEFAULT)

    @classmethod
    def of_installed(cls, settings: Settings) -> Self:
        """Return those of an app that `install` meets, and whose answers it does not change."""
        return cls._of(settings, default=timedelta(0))

    @classmethod
    def _of(cls, settings: Settings, *, default: timedelta) -> Self:
        chosen = settings.http.deadline
        return cls(
            default if chosen is None else chosen,
            header=settings.http.deadline_header,
            trusted=settings.server.trusted_proxies,
        )

    def begin(self, scope: Scope) -> RequestCall:
        """Return the call of a request that begins now."""
        call = RequestCall(self.limit_seconds)
        header = self._header
        for name, value in scope["headers"]:
            if name == header:
                call.shorten(min(call.caller_waits, self._read(value, scope)))
        return call

    def _read(self, value: bytes, scope: Scope) -> float:
        # Nonsense is ignored like the word of a stranger: it is a hint, and no reason to refuse the request.
        is_number = value.isdigit() and len(value) <= _LONGEST_DIGITS
        return int(value) / 1000 if is_number and self._trusted.include(scope) else inf


class _Callers:
    """Who is believed. Where proxies are, Uvicorn has put the address of who called them into the scope."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._names = frozenset(trusted)
        self._networks = []
        for name in trusted:
            with suppress(ValueError):  # a name, or *
                self._networks.append(ip_network(name, strict=False))

    def include(self, scope: Scope) -> bool:
        host = (scope.get("client") or ("",))[0]
        if "*" in self._names or host in self._names:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def time_limit(limit: str | timedelta | None) -> Depends:
    """Return a marker that gives a route more time, or less, than the setting `http.deadline`.

        @router.get("/report", dependencies=[time_limit("5m")])
        @router.get("/events", dependencies=[time_limit(None)])

    It counts from the beginning of the request, and never for longer than a trusted caller waits. What
    happens before the route's dependencies run, such as reading the body, still has the time of the setting.

    Args:
        limit: `500ms`, `5m`, a timedelta; None for as long as it takes, such as a stream without an end.

    Raises:
        ConfigurationError: It is not a length of time.
    """
    seconds = inf if limit is None else parse_duration(limit, of="a route's time_limit").total_seconds()

    async def allow(connection: HTTPConnection) -> None:
        exchange = connection.scope.get("backstay.exchange")
        if exchange is not None:
            exchange.call.allow(seconds)

    return Depends(allow)

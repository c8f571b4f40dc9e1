"""How a service stops: it says so, serves on until the proxies have heard, and then finishes what it has.

    SERVING     signal         -> DRAINING    /readyz answers 503, each answer tells its connection to close
    DRAINING    drain is over  -> FINISHING   the server accepts no more, and waits for what it has accepted
    FINISHING   grace is over                 what still runs is ended, with a 503 where nothing was sent yet

A second signal goes on to the next step at once. The server's own handler of the signal is called at the
second step, so the server stops as it always does, only later.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from datetime import timedelta
from enum import Enum, auto
from time import monotonic
from types import FrameType
from typing import Final, TypeAlias

from starlette.datastructures import MutableHeaders

from backstay.app._in_flight import InFlight
from backstay.errors import UnavailableError
from backstay.settings import Settings

__all__ = ["Stopping", "drain_time"]

_logger = logging.getLogger("backstay.app")

_Handler: TypeAlias = Callable[[int, FrameType | None], object]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_DRAIN: Final = timedelta(seconds=10)
_SAME_NEWS_SECONDS: Final = 2.0
"""A process group is told by whoever stops the service, and each worker by its parent once more."""

_LEAST_SECONDS: Final = 1.0
"""What background tasks have to end in, however late it is."""


def drain_time(settings: Settings) -> timedelta:
    """Return how long the service still takes requests after it was told to stop."""
    if settings.server.drain is not None:
        return settings.server.drain
    return _DRAIN if settings.environment == "production" else timedelta(0)


class _Stage(Enum):
    SERVING = auto()
    DRAINING = auto()
    FINISHING = auto()


class Stopping:
    """How far one service is on its way to its end.

    Args:
        in_flight: The requests that are being served.
    """

    def __init__(self, in_flight: Collection[InFlight]) -> None:
        self._in_flight = in_flight
        self._stage = _Stage.SERVING
        self._handlers: dict[int, _Handler] = {}
        self._heard_at = self._grace_ends_at = 0.0
        self._drain_seconds = self._grace_seconds = 0.0
        self._most_grace: timedelta | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = Context()
        self.is_draining = False
        self.has_given_up = False

    def limit_grace(self, grace: timedelta) -> None:
        """Wait no longer than this for accepted requests, whatever the settings say."""
        self._most_grace = grace

    @contextmanager
    def listening(self, settings: Settings) -> Iterator[None]:
        """Hear of signals before the server does, while the block runs.

        Nothing is done where no server handles signals: in threads, in scripts, in tests.
        """
        self._stage, self.is_draining, self.has_given_up = _Stage.SERVING, False, False
        grace = settings.server.grace
        self._grace_seconds = min(grace, self._most_grace or grace).total_seconds()
        self._drain_seconds = drain_time(settings).total_seconds()
        self._loop, self._context = asyncio.get_running_loop(), copy_context()
        self._handlers = _find_handlers()
        for number in self._handlers:
            signal.signal(number, self._hear)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for number, handler in self._handlers.items():
                if signal.getsignal(number) == self._hear:
                    signal.signal(number, handler)

    def end_connection(self, exchange: InFlight, headers: MutableHeaders) -> None:
        """Tell the caller, whose answer begins, that it is the last one on this connection."""
        if exchange.scope.get("http_version") != "2":
            headers["Connection"] = "close"
        if self._stage is _Stage.FINISHING and exchange.is_event_stream:
            _end([exchange])

    def seconds_left(self) -> float:
        """Return what is left of the grace, for what runs in the background; all of it without a signal."""
        if self._stage is not _Stage.FINISHING:
            return self._grace_seconds
        return max(_LEAST_SECONDS, self._grace_ends_at - monotonic())

    def explain_end(self) -> UnavailableError | None:
        """Return why requests were ended, if the stop has ended them."""
        return UnavailableError("The service is stopping.") if self.has_given_up else None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now, before = monotonic(), self._heard_at
        if number == signal.SIGTERM and before and now - before < _SAME_NEWS_SECONDS:
            return
        self._heard_at = now
        if self._loop is not None:
            # The signal may come in the middle of a request, which has nothing to do with it.
            self._loop.call_soon_threadsafe(self._advance, number, context=self._context)

    def _advance(self, number: int) -> None:
        if self._stage is _Stage.SERVING and self._drain_seconds and number == signal.SIGTERM:
            self._stage, self.is_draining = _Stage.DRAINING, True
            _logger.info("Stopping: requests are taken for %g more seconds.", self._drain_seconds)
            self._timer = asyncio.get_running_loop().call_later(self._drain_seconds, self._finish, number)
        elif self._stage is _Stage.FINISHING:
            self._give_up()
        else:  # whoever sits at the terminal and presses Ctrl-C waits for no proxy
            self._finish(number)

    def _finish(self, number: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._stage, self.is_draining = _Stage.FINISHING, True
        self._grace_ends_at = monotonic() + self._grace_seconds
        _logger.info(
            "Stopping: %d accepted requests have %g seconds.", len(self._in_flight), self._grace_seconds
        )
        self._timer = asyncio.get_running_loop().call_later(self._grace_seconds, self._give_up)
        self._handlers[number](number, None)
        # Their callers connect again wherever they are sent, so nobody waits for them.
        _end(exchange for exchange in self._in_flight if exchange.is_event_stream)

    def _give_up(self) -> None:
        self._grace_ends_at = monotonic()
        if self._in_flight:
            _logger.warning("Stopping: %d requests did not end in time, and are ended.", len(self._in_flight))
        self.has_given_up = True
        _end(self._in_flight)


def _end(exchanges: Iterable[InFlight]) -> None:
    now = monotonic()
    for exchange in exchanges:
        exchange.call.ends_at = now  # the sweeper looks at all of them ten times a second


def _find_handlers() -> dict[int, _Handler]:
    """Return how the server takes the signals; nothing when there is no server that does."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    handlers: dict[int, _Handler] = {
        number: handler for number, handler in found.items() if callable(handler)
    }
    return handlers if signal.SIGTERM in handlers else {}

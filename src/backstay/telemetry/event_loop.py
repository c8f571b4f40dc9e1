"""How late the event loop is, and what blocks it.

Everything that a service does waits for one thread. A call that blocks it for two seconds delays every
request by two seconds, and shows in none of their durations but the first one's.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from datetime import timedelta
from time import monotonic
from types import FrameType

from backstay.telemetry._places import describe_frame, find_own_frame, outer_frames

__all__ = ["LoopWatch"]

_WINDOW_SECONDS = 15.0
_TICK_SECONDS = 0.1
_FRAMES_SHOWN = 20

_logger = logging.getLogger("backstay.telemetry")


class LoopWatch:
    """Measure the delay of an event loop, and name what blocks it while it does.

    Args:
        block_limit: What blocks the loop for longer is logged with its stack; zero logs nothing, and needs no
            thread.
    """

    def __init__(self, *, block_limit: timedelta = timedelta(0)) -> None:
        self._limit_seconds = block_limit.total_seconds()
        self._tick_seconds = min(_TICK_SECONDS, self._limit_seconds / 4 or _TICK_SECONDS)
        self._lags: deque[tuple[float, float]] = deque()
        self._beat = monotonic()
        self._told_at: float | None = None

    @property
    def lag_seconds(self) -> float:
        """The longest that the loop came late to anything in the last 15 seconds.

        A mean, or the latest value, would miss the block between two scrapes.
        """
        self._forget_old(monotonic())
        return max((lag for _, lag in self._lags), default=0.0)

    async def run(self) -> None:
        """Measure until cancelled; one short wake-up every 100 ms, or four in each `block_limit`."""
        self._beat = monotonic()
        if not self._limit_seconds:
            await self._measure()
        stop = threading.Event()
        guard = threading.Thread(
            target=self._guard, args=(threading.get_ident(), stop), name="backstay.loop", daemon=True
        )
        guard.start()
        try:
            await self._measure()
        finally:
            stop.set()

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            last, now = self._beat, monotonic()
            lag = max(0.0, now - last - self._tick_seconds)
            self._keep(now, lag)
            self._beat = now
            if self._told_at == last:
                _logger.warning("The event loop runs again after %d ms.", round(lag * 1000))

    def _keep(self, now: float, lag: float) -> None:
        # Only what may still be the longest: a later and longer one makes the earlier ones uninteresting.
        while self._lags and self._lags[-1][1] <= lag:
            self._lags.pop()
        self._lags.append((now, lag))
        self._forget_old(now)

    def _forget_old(self, now: float) -> None:
        while self._lags and self._lags[0][0] < now - _WINDOW_SECONDS:
            self._lags.popleft()

    # In a thread of its own, which a blocked loop does not hold up.

    def _guard(self, loop_thread: int, stop: threading.Event) -> None:
        while not stop.wait(self._tick_seconds):
            beat = self._beat
            has_told = self._told_at == beat
            if monotonic() - beat > self._limit_seconds + self._tick_seconds and not has_told:
                frame = sys._current_frames().get(loop_thread)  # noqa: SLF001  documented, for debugging
                if frame is not None:
                    self._told_at = beat
                    self._tell(frame)

    def _tell(self, innermost: FrameType) -> None:
        frames = list(outer_frames(innermost))
        place = describe_frame(find_own_frame(frames) or innermost)
        stack = [describe_frame(frame) for frame in frames[:_FRAMES_SHOWN]]
        limit = round(self._limit_seconds * 1000)
        _logger.warning(
            "The event loop is blocked for over %d ms by %s.", limit, place, extra={"frames": stack}
        )

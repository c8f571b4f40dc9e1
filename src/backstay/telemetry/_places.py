"""Where in the service's own code something comes from."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType

__all__ = ["current_frames", "describe_frame", "find_own_frame", "frames_of", "outer_frames"]


def current_frames() -> Iterator[FrameType]:
    """Yield what the caller runs in, the innermost first."""
    return outer_frames(sys._getframe(1))  # noqa: SLF001  documented, and meant for this


def outer_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and those around it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def frames_of(task: asyncio.Task[object]) -> list[FrameType]:
    """Return where a suspended task waits, the innermost first."""
    frames: list[FrameType] = []
    waiting: object = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return frames[::-1]


def find_own_frame(frames: Iterable[FrameType]) -> FrameType | None:
    """Return the first frame that is neither a library's nor ours."""
    return next((frame for frame in frames if _is_own(frame.f_code.co_filename)), None)


def _is_own(file: str) -> bool:
    is_generated = file.startswith("<")
    return not is_generated and not os.path.realpath(file).startswith(_foreign_folders())


@cache
def _foreign_folders() -> tuple[str, ...]:
    libraries = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platlib", "purelib")}
    return (*libraries, str(Path(__file__).resolve().parents[1]))


def describe_frame(frame: FrameType) -> str:
    """Return `src/shop/users/service.py, line 12, in register_user`."""
    path = frame.f_code.co_filename
    shown = os.path.relpath(path) if path.startswith(f"{Path.cwd()}{os.sep}") else path
    return f"{shown}, line {frame.f_lineno}, in {frame.f_code.co_name}"

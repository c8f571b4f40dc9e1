"""Where lines go: one write per line, and a failure is counted, never raised."""

import io
import os
import sys
from collections.abc import Callable
from threading import Lock
from typing import IO, TypeAlias

Stream: TypeAlias = IO[str] | IO[bytes]


def dropped_events() -> int:
    """Return how many events this process could not write, for a closed pipe, a full disk or the like."""
    return _dropped.count


def count_dropped_event() -> None:
    """Add one to what `dropped_events` tells."""
    _dropped.add()


class Output:
    """A stream that takes whole lines.

    Args:
        stream: Text or binary; None is whatever `sys.stdout` is at the time of each line.
    """

    def __init__(self, stream: Stream | None = None) -> None:
        self._fixed = stream
        self._opened: Stream | None = None
        self._write_line: Callable[[bytes], None]

    def write(self, line: bytes) -> None:
        """Write one line, which ends with its line feed; a line that cannot be written is counted."""
        try:
            self._open()(line)
        except Exception:  # noqa: BLE001  the caller's work must not fail for its log line
            count_dropped_event()

    def _open(self) -> Callable[[bytes], None]:
        stream = self._fixed or sys.stdout
        # The number of a closed descriptor may belong to a socket by now.
        if stream is None or stream.closed:
            raise ValueError("There is no open stream to log to.")
        if stream is not self._opened:
            self._write_line = _find_writer(stream)
            self._opened = stream
        return self._write_line

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads along."""
        stream = self._fixed or sys.stdout
        return stream is not None and not stream.closed and stream.isatty()

    @property
    def encoding(self) -> str:
        """The encoding of the stream, UTF-8 when it has none."""
        return getattr(self._fixed or sys.stdout, "encoding", None) or "utf-8"


class _Dropped:
    def __init__(self) -> None:
        self.count = 0
        self._lock = Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1


_dropped = _Dropped()


def _find_writer(stream: Stream) -> Callable[[bytes], None]:
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError):
        return _write_to_object(stream)
    return lambda line: _write_to_descriptor(descriptor, line)


def _write_to_descriptor(descriptor: int, line: bytes) -> None:
    # One system call and no buffer of ours: lines of several workers stay whole, a signal handler may log,
    # and a line that failed is not tried again behind our back when the interpreter flushes.
    written = os.write(descriptor, line)
    while written < len(line):
        line = line[written:]
        written = os.write(descriptor, line)


def _write_to_object(stream: Stream) -> Callable[[bytes], None]:
    is_text = isinstance(stream, io.TextIOBase)
    encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(line: bytes) -> None:
        stream.write(line.decode(encoding, "replace") if is_text else line)  # type: ignore[arg-type]  # by is_text
        stream.flush()

    return write

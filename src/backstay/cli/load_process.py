"""The process that makes the load, as the command line sees it."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import IO, Any, Self

from backstay.cli.load_view import LoadView
from backstay.errors import ConfigurationError
from backstay.load.messages import Message, Outcome, Plan, Progress, Refusal, read_message, write_plan

__all__ = ["Generator"]


class Generator:
    """Runs a plan in a process of its own. Ctrl-C ends the run early, a second one ends it at once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._interrupts = 0

    @property
    def is_interrupted(self) -> bool:
        """Whether somebody ended the run; one with Locust's page ends in no other way."""
        return self._interrupts > 0 and self._plan.web_port is None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backstay.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A terminal's Ctrl-C is for this process, which passes it on.
            process_group=0,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def follow(self, view: LoadView) -> Outcome | Refusal:
        """Show how it goes, and return how it ended.

        Raises:
            ConfigurationError: It ended without a word.
        """
        talk = Thread(target=_pass_on, args=(_open(self._process.stderr), view.say), daemon=True)
        talk.start()
        last: Message | None = None
        with _taking_interrupts(self._interrupt):
            _write(_open(self._process.stdin), write_plan(self._plan))
            for line in _open(self._process.stdout):
                last = read_message(line)
                if isinstance(last, Progress):
                    view.show(last)
            code = self._process.wait()
        talk.join()
        if last is None or isinstance(last, Progress):
            raise ConfigurationError(
                f"The process that makes the load ended with code {code} before it was done.",
                hint="What it wrote stands above.",
            )
        return last

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            self._process.kill()
        else:
            self._process.terminate()


@contextmanager
def _taking_interrupts(call: Callable[[], None]) -> Iterator[None]:
    """Call back at SIGINT and SIGTERM, instead of ending."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before: list[Any] = [signal.signal(number, lambda *_: call()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise AssertionError("each stream of the process is a pipe")
    return stream


def _write(stream: IO[bytes], content: bytes) -> None:
    # It may have ended already; how, its output tells.
    with suppress(BrokenPipeError):
        stream.write(content)
        stream.flush()


def _pass_on(stream: IO[bytes], say: Callable[[str], None]) -> None:
    for line in stream:
        say(line.decode(errors="replace").rstrip())

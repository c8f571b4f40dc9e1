"""Processes that serve, and the one that watches over them."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from threading import Thread

__all__ = ["sparing_interrupts", "stop_with_parent"]


@contextmanager
def sparing_interrupts() -> Iterator[None]:
    """Block SIGINT in the processes that are started inside the block.

    Ctrl-C reaches every process of a terminal. Where it is blocked it comes as a SIGTERM from the process
    that watches, which one that has only begun takes without a traceback, too.
    """
    resource_tracker.ensure_running()  # started with a process, it would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def stop_with_parent() -> None:
    """Stop gracefully when the process that watches over this one is killed; an orphan keeps the port."""
    parent = parent_process()
    if parent is not None:
        Thread(target=_outlive, args=(parent,), daemon=True).start()


def _outlive(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)

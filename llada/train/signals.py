"""Signals that end a run in good order: the first one asks, a second one kills.

Schedulers announce the end of a job this way: SLURM with SIGUSR1 or SIGTERM, Kubernetes with SIGTERM, a person with
Ctrl-C (SIGINT).
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: saved before the end, so start again with --resume


class Interrupted(Exception):  # noqa: N818  # not an error
    """A signal ended the run after it had been saved."""


class Stop:
    """Whether a signal asked this process to stop."""

    def __init__(self):
        self.received: signal.Signals | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:  # whoever asks twice does not want to wait
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = signal.Signals(number)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Note stopping signals instead of dying of them; the old handlers come back at the end.

    Outside the main thread, where Python allows no handlers, signals act as before.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

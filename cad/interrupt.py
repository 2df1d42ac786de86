"""Stop at a safe point: signals set a flag that long loops check between two steps.

Further signals are harmless (under Apptainer every signal arrives twice).  SIGKILL still ends work
that does not reach a safe point, and costs at most one checkpoint interval.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

from cad.errors import CadError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class InterruptedRun(CadError):
    """The run saved its state because it was told to stop; running it again continues from there."""

    exit_code = 130


class StopFlag:
    """Whether this process was told to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self) -> bool:
        """True once a stop signal has arrived."""
        return self.signal_number is not None

    def raise_if_set(self, what: str) -> None:
        """Raise :class:`InterruptedRun` if this process was told to stop; ``what`` is its work."""
        if self.signal_number is not None:
            name = signal.Signals(self.signal_number).name
            raise InterruptedRun(f"{what} stopped by {name}; run the same command again to go on")

    def request(self) -> None:
        """Request a stop without a signal."""
        self.signal_number = signal.SIGTERM

    def _set(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Within the block, stop signals set the yielded flag instead of ending the process."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread can install handlers
        return
    before = {number: signal.signal(number, flag._set) for number in STOP_SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            # None: the earlier handler was not installed from Python, so Python cannot restore it.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Stop signals wait in the block, and in processes started in it until :func:`hear_stop_signals`.

    Slurm signals every process of a job: one that is not ready to save must not die of it, nor miss it.
    """
    # The tracker unblocks some of them when it starts, so it has to be there before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear_stop_signals() -> None:
    """Stop signals arrive from now on, those too that this process was sent while they were blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C, which reaches all of a terminal, until they handle it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can install handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

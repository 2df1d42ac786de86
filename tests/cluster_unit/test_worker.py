"""Signals that reach a Slurm task while no stage listens to them: the job starts again, it has not failed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cad.cluster import worker
from cad.cluster.script import SAVED
from cad.interrupt import InterruptedRun, stop_on_signals


def at_once(number: int) -> None:
    os.kill(os.getpid(), number)


def after_it_has_saved(number: int) -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), number)
        assert stop()
    try:
        raise InterruptedRun("saved")
    finally:
        os.kill(os.getpid(), number)


def exit_code_of(work: Callable[[int], None], number: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            # As submitit's own handlers, which need scontrol.
            for each in (signal.SIGTERM, signal.SIGUSR2):
                signal.signal(each, lambda *_: os._exit(1))
            worker.rank_assignment_of_task = lambda: None
            worker._ready = lambda *_: True
            worker.stage_job = lambda *_: work(number)
            worker.slurm_task(Path(), (None,), None)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("work", [at_once, after_it_has_saved])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_that_no_stage_hears_starts_the_job_again(work, number):
    assert exit_code_of(work, number) == SAVED

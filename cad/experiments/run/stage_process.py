"""A stage, or a pack of them, in a process of its own on this machine.

The processes are forked from a server that has imported what stages need, so that a stage of seconds
does not wait as long again for torch.  The server itself runs no tensor operation, holds no device, and
ends with the process that uses it.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cad.errors import CadError
from cad.experiments.plan.stage import Stage
from cad.experiments.run.attempt import PROGRESS_LOG
from cad.experiments.run.job import is_alive, pack_job, stage_job
from cad.experiments.run.local_launcher import PRELOADED
from cad.experiments.run.resources import Resources
from cad.interrupt import InterruptedRun, interrupts_ignored, stop_signals_blocked
from cad.process import without_main

# For a stage to save and to end, before it is killed.
_PATIENCE_SECONDS = 30.0
# What multiprocessing says of a process whose server, which would know its exit code, is gone.
_UNKNOWN_CODE = 255


class StageProcess:
    """A process that runs a stage, or several as a pack."""

    def __init__(self, root: Path, stages: Sequence[Stage], resources: Resources, log: Path | None) -> None:
        """Start ``stages``; they stop soon after this process is gone.

        Their output goes to the file ``log``; with None, where that of this process goes, with lines of
        progress, as in a job.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        # Absolute: the server starts its processes where it was started itself.
        arguments = (root.absolute(), tuple(stages), resources, os.getpid(), log and log.absolute())
        self._process = context.Process(target=_run, args=arguments)
        # Ctrl-C reaches all processes of a terminal: what is not ready to save must not die of it.
        with stop_signals_blocked(), interrupts_ignored(), without_main():
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended, however that was."""
        return not self._process.is_alive() and not self._lost

    @property
    def exit_code(self) -> int | None:
        """Of a process that has ended, negative for a signal; None where nobody knows it."""
        code = self._process.exitcode
        return None if code == _UNKNOWN_CODE else code

    @property
    def _lost(self) -> bool:
        """Whether it goes on without its server, so that only its number tells."""
        return self._process.exitcode == _UNKNOWN_CODE and is_alive(self.pid)

    def stop(self) -> None:
        """Ask the stages to save and end; again and again is harmless."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def wait_for_any(processes: Sequence[StageProcess], seconds: float) -> None:
    """Return when one of ``processes`` ends, at the latest after ``seconds``."""
    if any(process._lost for process in processes):
        time.sleep(seconds)  # it would seem to end all the time
    else:
        multiprocessing.connection.wait([process._process.sentinel for process in processes], seconds)


def end_all(processes: Sequence[StageProcess]) -> None:
    """Ask stages to save and end; kill those that have not done so in half a minute."""
    for process in processes:
        process.stop()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (left := [one for one in processes if not one.ended]) and time.monotonic() < deadline:
        wait_for_any(left, min(0.5, max(0.0, deadline - time.monotonic())))
    for process in left:
        process._signal(signal.SIGKILL)
    for process in processes:
        process._process.join()


def _run(root: Path, stages: Sequence[Stage], resources: Resources, runner: int, log: Path | None) -> None:
    if log is None:
        logging.getLogger(PROGRESS_LOG).setLevel(logging.INFO)
    else:
        with log.open("ab") as file:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
    try:
        if len(stages) == 1:
            stage_job(root, stages[0], resources, runner)
        else:
            pack_job(root, stages, resources, runner)
    except InterruptedRun as stopped:
        logging.getLogger(__name__).warning("%s: %s", stages[0].name, stopped)
        sys.exit(stopped.exit_code)
    except CadError as error:
        logging.getLogger(__name__).error("%s: %s", stages[0].name, error)
        sys.exit(error.exit_code)

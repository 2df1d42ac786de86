"""A stage, or a pack of them, in a process of its own on this machine.

The processes are forked from a server that has imported what stages need, so that a stage of seconds
does not wait as long again for torch.  The server itself runs no tensor operation, holds no device, and
ends with the process that uses it.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cad.errors import CadError
from cad.experiments.plan.stage import Stage
from cad.experiments.run.job import pack_job, stage_job
from cad.experiments.run.local_launcher import PRELOADED
from cad.experiments.run.resources import Resources
from cad.interrupt import interrupts_ignored
from cad.process import without_main

# For a stage to save and to end, before it is killed.
_PATIENCE_SECONDS = 30.0


class StageProcess:
    """A process that runs a stage, or several as a pack, its output in a log file."""

    def __init__(self, root: Path, stages: Sequence[Stage], resources: Resources, log: Path) -> None:
        """Start ``stages``; they stop soon after this process is gone."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        # Absolute: the server starts its processes where it was started itself.
        arguments = (root.absolute(), tuple(stages), resources, os.getpid(), log.absolute())
        self._process = context.Process(target=_run, args=arguments)
        # Ctrl-C reaches all processes of a terminal: what is not ready to save must not die of it.
        with interrupts_ignored(), without_main():
            self._process.start()

    @property
    def ended(self) -> bool:
        """Whether the process has ended, however that was."""
        return not self._process.is_alive()


def wait_for_any(processes: Sequence[StageProcess], seconds: float) -> None:
    """Return when one of ``processes`` ends, at the latest after ``seconds``."""
    multiprocessing.connection.wait([process._process.sentinel for process in processes], seconds)


def end_all(processes: Sequence[StageProcess]) -> None:
    """Ask stages to save and end; kill those that have not done so in half a minute."""
    for process in processes:
        process._process.terminate()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for process in processes:
        process._process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process._process.kill()
        process._process.join()


def _run(root: Path, stages: Sequence[Stage], resources: Resources, runner: int, log: Path) -> None:
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    try:
        if len(stages) == 1:
            stage_job(root, stages[0], resources, runner)
        else:
            pack_job(root, stages, resources, runner)
    except CadError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(error.exit_code)

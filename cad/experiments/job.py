"""The worker side: one stage in a process of its own, which never outlives its runner for long."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from cad.errors import CadError
from cad.experiments.directory import StageDirectory
from cad.experiments.plan import Stage
from cad.experiments.ranks import ranks_of, run_in_ranks
from cad.experiments.stages import Resources, run_stage
from cad.interrupt import InterruptedRun, StopFlag, stop_on_signals
from cad.storage import write_json
from cad.training.ranks import PeerLostError
from cad.training.rendezvous import RankAssignment, joined

FAILED = "FAILED"


def stage_job(
    root: Path,
    stage: Stage,
    resources: Resources,
    runner: int | None,
    assignment: RankAssignment | None = None,
) -> None:
    """Run a stage and leave ``DONE``, or ``FAILED`` with the reason, in its directory.

    ``runner`` is the process that waits for this one: when it is gone, the work is saved and ends.
    With an ``assignment`` this is one of several ranks that run the stage together.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with stop_on_signals() as stop:
        if runner is not None:
            _stop_with(runner, stop)
        run_or_record(root, stage, resources, stop, assignment)


def run_or_record(
    root: Path, stage: Stage, resources: Resources, stop: StopFlag, assignment: RankAssignment | None = None
) -> None:
    """Run a stage; a failure is recorded in its directory before it is raised."""
    directory = StageDirectory(root, stage)
    marker = directory.file(FAILED)
    if assignment is None or assignment.rank == 0:
        marker.unlink(missing_ok=True)
    try:
        if assignment is not None:
            with joined(assignment, directory.path, stop, resources.device) as ranks:
                run_stage(root, stage, resources, stop, wait=True, ranks=ranks)
        elif ranks_of(stage, resources.ranks) > 1:
            run_in_ranks(root, stage, resources, stop)
        else:
            run_stage(root, stage, resources, stop, wait=True)
    except (InterruptedRun, PeerLostError):
        raise
    except Exception as error:
        # Slurm signals every process of a job: what fails while the work is stopping is no failure.
        stop.raise_if_set(f"stage {stage.name}")
        message = str(error) if isinstance(error, CadError) else f"{type(error).__name__}: {error}"
        try:
            write_json(marker, {"message": message, "expected": isinstance(error, CadError)})
        except CadError as also:  # on a full disk the marker cannot be written either
            logging.getLogger(__name__).error("%s", also)
        raise


def _stop_with(runner: int, stop: StopFlag) -> None:
    def watch() -> None:
        while not stop():
            if not _alive(runner):
                stop.request()
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        # A killed process that its parent has not asked after yet still has a number.
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (OSError, IndexError):
        return True  # no /proc here: the number is all there is to go by
    return state != "Z"

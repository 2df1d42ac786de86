"""What a Slurm task runs; inside the image, if the profile names one."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import submitit

import cad
from cad.cluster.script import NOT_READY, PRUNED, SAVED
from cad.errors import CadError
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.job_records import is_shortage
from cad.experiments.plan.stage import Stage
from cad.experiments.run.attempt import PROGRESS_LOG
from cad.experiments.run.job import stage_job
from cad.experiments.run.resources import Resources
from cad.experiments.run.side_by_side import task_job
from cad.interrupt import STOP_SIGNALS, InterruptedRun
from cad.training.ranks import PeerLostError, RankAssignment
from cad.training.training import PrunedError


def slurm_task(root: Path, task: Sequence[Stage], resources: Resources) -> None:
    """Run a stage, or several as a pack; exit with :data:`SAVED` when a signal stopped it.

    It exits because submitit would record an exception as the job's final result.
    """
    # Instead of submitit's handlers, which call scontrol: an image has none.
    for number in STOP_SIGNALS:
        signal.signal(number, _start_again)
    # It prints by itself; a second copy would come from our own log.
    logging.getLogger("submitit").propagate = False
    logging.getLogger(PROGRESS_LOG).setLevel(logging.INFO)
    sys.stdout.write(f"cad {cad.__version__} from {Path(cad.__file__).parent}\n")
    try:
        if len(task) > 1:
            _run_pack(root, task, resources)
        elif _ready(root, task[0]):
            stage_job(root, task[0], resources, None, rank_assignment_of_task())
        else:
            _end_not_ready()
    except InterruptedRun as stopped:
        logging.getLogger(__name__).warning("%s", stopped)
        sys.exit(SAVED)
    except PrunedError as pruned:
        logging.getLogger(__name__).warning("ended early: %s", pruned)
        sys.exit(PRUNED)
    except PeerLostError as lost:
        # As if killed, so that the job is requeued from its last checkpoint; unless the other task failed.
        logging.getLogger(__name__).error("%s", lost)
        sys.exit(lost.exit_code)
    # The stage is done; a signal during exit must not turn it into a failure.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _run_pack(root: Path, pack: Sequence[Stage], resources: Resources) -> None:
    """Train those of a pack that can be trained; :class:`CadError` in the end where some failed."""
    ready = [stage for stage in pack if _ready(root, stage)]
    if not ready:
        _end_not_ready()

    def has_left(directory: StageDirectory) -> bool:
        return _has_left(directory, resources)

    directories = {stage.name: StageDirectory(root, stage.name) for stage in ready}
    going = [
        stage for stage in ready if not (directories[stage.name].done or has_left(directories[stage.name]))
    ]
    if going:
        task_job(root, going, resources, has_left)
    failed = [name for name, directory in directories.items() if directory.failure() is not None]
    if failed:
        raise CadError(f"{len(failed)} of {len(pack)} trainings of this pack failed: {' '.join(failed)}")


def _ready(root: Path, stage: Stage) -> bool:
    """Whether its inputs are done: a task that waits for a pack begins whatever came of them."""
    return all(StageDirectory(root, needed.name).done for needed in stage.inputs)


def _end_not_ready() -> NoReturn:
    logging.getLogger(__name__).warning("not begun: a stage that is needed is not done")
    sys.exit(NOT_READY)


def _has_left(directory: StageDirectory, resources: Resources) -> bool:
    """Whether a training ended in an earlier attempt of this job, or was cancelled before the first one."""
    if resources.pruning is not None and directory.pruned() is not None:
        return True
    failure = directory.failure()
    return failure is not None and not is_shortage(failure)


def _start_again(_number: int, _frame: FrameType | None) -> NoReturn:
    """For signals before a stage listens to them, and after it has saved: nothing is lost."""
    os._exit(SAVED)


def rank_assignment_of_task() -> RankAssignment | None:
    """This Slurm task's rank in its job; None for a job of one task."""
    task = submitit.JobEnvironment()
    if task.num_tasks == 1:
        return None
    # Another attempt of the same job has another rendezvous id.
    rendezvous_id = f"{task.raw_job_id}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return RankAssignment(task.global_rank, task.num_tasks, task.local_rank, task.hostnames[0], rendezvous_id)

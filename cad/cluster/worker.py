"""What a Slurm task runs; inside the image, if the profile names one."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import submitit

import cad
from cad.cluster.script import PRUNED, SAVED
from cad.experiments.plan.stage import Stage
from cad.experiments.run.attempt import PROGRESS_LOG
from cad.experiments.run.job import stage_job
from cad.experiments.run.resources import Resources
from cad.interrupt import STOP_SIGNALS, InterruptedRun
from cad.training.ranks import PeerLostError, RankAssignment
from cad.training.training import PrunedError


def slurm_task(root: Path, stage: Stage, resources: Resources) -> None:
    """Run a stage; exit with :data:`SAVED` when a signal stopped it.

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
        stage_job(root, stage, resources, None, rank_assignment_of_task())
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

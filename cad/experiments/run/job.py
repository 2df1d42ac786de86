"""Run one stage, or a pack of them, in a process of its own, which ends soon after its runner is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cad.errors import CadError
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.stage import Stage
from cad.experiments.run.local_launcher import run_in_ranks
from cad.experiments.run.packs import run_pack
from cad.experiments.run.resources import Resources, pick_device, ranks_of
from cad.experiments.run.stages import run_stage
from cad.interrupt import InterruptedRun, StopFlag, hear_stop_signals, stop_on_signals
from cad.surroundings import leave_out
from cad.training.ranks import PeerLostError, RankAssignment
from cad.training.rendezvous import joined
from cad.training.training import PrunedError


def stage_job(
    root: Path,
    stage: Stage,
    resources: Resources,
    runner: int | None,
    assignment: RankAssignment | None = None,
) -> None:
    """Run a stage and leave ``DONE``, or ``FAILED`` with the reason, in its directory.

    ``runner`` is the process that waits for this one: when it is gone, this one saves its work and ends.
    With an ``assignment`` this is one of several ranks that run the stage together.
    """
    with work_of(runner) as stop:
        run_or_record(root, stage, resources, stop, assignment)


def pack_job(root: Path, stages: Sequence[Stage], resources: Resources, runner: int | None) -> None:
    """:func:`stage_job` of several trainings that this process works on together.

    Each leaves ``DONE`` or ``FAILED`` in its own directory; this returns when all have ended.
    """
    with work_of(runner) as stop:
        run_pack_or_record(root, stages, resources, stop)


def run_pack_or_record(root: Path, stages: Sequence[Stage], resources: Resources, stop: StopFlag) -> None:
    """Run a pack; failures are recorded in the directories of those that they are of."""
    for busy in run_pack(root, stages, resources, stop):
        with contextlib.suppress(CadError):  # recorded
            run_or_record(root, busy, resources, stop)
        stop.raise_if_set(f"stage {busy.name}")


@contextlib.contextmanager
def work_of(runner: int | None) -> Iterator[StopFlag]:
    """Within the block this process logs, and stops with its ``runner`` or when it is signalled."""
    leave_out()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with stop_on_signals() as stop:
        hear_stop_signals()
        if runner is not None:
            _stop_with(runner, stop)
        yield stop


def run_or_record(
    root: Path, stage: Stage, resources: Resources, stop: StopFlag, assignment: RankAssignment | None = None
) -> None:
    """Run a stage; a failure is recorded in its directory before it is raised."""
    directory = StageDirectory(root, stage.name)
    if assignment is None or assignment.rank == 0:
        directory.clear_failure()
    try:
        ranks = ranks_of(stage, resources.ranks)
        if assignment is not None:
            device = pick_device(resources.device).type
            with joined(assignment, directory.path, stop, device) as joined_ranks:
                run_stage(root, stage, resources, stop, wait=True, ranks=joined_ranks)
        elif ranks > 1:
            work = _RankJob(root, stage, resources)
            try:
                run_in_ranks(work, ranks, stop, f"stage {stage.name}", directory.failure)
            except CadError:
                if (why := directory.pruned()) is None:
                    raise
                raise PrunedError(why) from None
        else:
            run_stage(root, stage, resources, stop, wait=True)
    except (InterruptedRun, PeerLostError):
        raise
    except PrunedError as error:
        directory.record_pruned(str(error))
        raise
    except Exception as error:
        # Slurm signals every process of a job: an error while the work is stopping is no failure.
        stop.raise_if_set(f"stage {stage.name}")
        directory.record_error(error)
        raise


@dataclass(frozen=True)
class _RankJob:
    """:func:`stage_job` as one of several ranks on this machine."""

    root: Path
    stage: Stage
    resources: Resources

    def __call__(self, assignment: RankAssignment, launcher: int) -> None:
        stage_job(self.root, self.stage, self.resources, launcher, assignment)


def _stop_with(runner: int, stop: StopFlag) -> None:
    def watch() -> None:
        while not stop():
            if not is_alive(runner):
                stop.request()
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()


def is_alive(process: int) -> bool:
    """Whether a process runs, of which only the number is known."""
    try:
        os.kill(process, 0)
        # A killed process keeps its number until its parent has collected it.
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (OSError, IndexError):
        return True  # without /proc, that the number exists is all that is known
    return state != "Z"

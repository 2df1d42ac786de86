"""The jobs of an experiment's stages: their logs, and cancelling them."""

from __future__ import annotations

import codecs
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cad.cluster.queue import cancel_jobs
from cad.cluster.sending import adopt_lost
from cad.cluster.status import StageStatus, State, jobs_by_cluster, stage_statuses
from cad.cluster.table import pick_cell
from cad.errors import CadError, UsageError
from cad.experiments.plan.cells import distinct_stages
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import Experiment
from cad.locks import folder_lock_in_turn

log = logging.getLogger(__name__)

CANCELLED = "cancelled; its pack went on without it"

_ASK_SLURM_EVERY = 10.0


@dataclass(frozen=True)
class Log:
    """A job's log, and the stage that it is of."""

    stage: StageDirectory
    path: Path


def log_of(experiment: Experiment, number: int, kind: str | None) -> Log:
    """The log of a cell's stage of the given kind; without a kind, of its latest stage that has one.

    Raises :class:`CadError` when there is no log yet.
    """
    cell = pick_cell(experiment, number)
    if kind is not None and kind not in [stage.kind for stage in cell.stages]:
        raise UsageError(f"--stage {kind}: a cell has {', '.join(stage.kind for stage in cell.stages)}")
    for stage in reversed(cell.stages):
        directory = StageDirectory(experiment.root, stage.name)
        note = directory.job()
        if kind in (None, stage.kind) and note is not None and note.log(experiment.root).exists():
            return Log(directory, note.log(experiment.root))
    raise CadError(f"cell {number} ({cell.label}, seed {cell.config.seed}) has no log of a Slurm job yet")


def follow(log: Log, write: Callable[[str], None], every: float = 0.5) -> str:
    """Write a log from its beginning, then as it grows, until its stage has ended.

    Returns the state in which the stage ended.  Raises :class:`CadError` when Slurm does not answer.
    """
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    with log.path.open("rb") as file:
        asked = time.monotonic()
        state: State = "running"
        while True:
            # Asked before the rest is read: what was written until then is not missed.
            if log.stage.done:
                state = "done"
            elif time.monotonic() - asked > _ASK_SLURM_EVERY:
                state = stage_statuses(log.stage.root, [log.stage.name])[log.stage.name].state
                asked = time.monotonic()
            if text := decode(file.read()):
                write(text)
            if state in ("done", "failed", "dead", "pruned"):
                return state
            time.sleep(every)


def cancel(experiment: Experiment, numbers: list[int]) -> tuple[list[str], list[str]]:
    """Cancel the queued and running jobs of some cells, or of all.

    Returns the ids of the cancelled jobs (of a training that leaves a pack which goes on: its stage's name),
    and those left alone because another experiment submitted them, or because cells that are not cancelled
    need them.
    """
    folder, held = experiment.root / "stages", contextlib.ExitStack()

    def tell(owner: str) -> None:
        log.warning(
            "waiting for %s, which submits to %s: its jobs are cancelled, too", owner, experiment.root
        )

    with held:
        if folder.is_dir():
            # Where this user may not write, nothing of theirs can be on its way.
            with contextlib.suppress(CadError):
                held.enter_context(folder_lock_in_turn(folder, "the folder of stages", tell))
                adopt_lost(experiment.root, locked=True)
        return _cancel(experiment, numbers)


def _cancel(experiment: Experiment, numbers: list[int]) -> tuple[list[str], list[str]]:
    chosen = [pick_cell(experiment, number) for number in numbers] or list(experiment.cells)
    others = [cell for cell in experiment.cells if cell not in chosen]
    shared = {stage.name for stage in distinct_stages(tuple(others))}
    stages = [stage.name for stage in distinct_stages(tuple(chosen))]
    own: dict[str, StageStatus] = {}
    foreign: dict[str, str] = {}
    for name, status in stage_statuses(experiment.root, stages).items():
        note = StageDirectory(experiment.root, name).job()
        if status.alive and status.job_id and note is not None:
            mine = note.experiment == experiment.config.name and name not in shared
            if mine:
                own[name] = status
            else:
                foreign[name] = status.job_id
    others_need = _jobs_of_others(experiment.root, own)
    leaving = [name for name, status in own.items() if _job(status) in others_need]
    for cluster, ids in jobs_by_cluster(own[name] for name in own if name not in leaving).items():
        cancel_jobs(ids, cluster)
    for name in leaving:
        # Its pack finds this, saves the training and goes on without it.
        StageDirectory(experiment.root, name).record_failure(CANCELLED, expected=True)
    gone = dict.fromkeys(name if name in leaving else str(status.job_id) for name, status in own.items())
    return list(gone), list(dict.fromkeys(foreign.values()))


def _job(status: StageStatus) -> tuple[str | None, str | None]:
    return status.cluster, status.job_id


def _jobs_of_others(root: Path, cancelled: Mapping[str, StageStatus]) -> set[tuple[str | None, str | None]]:
    """Those of the jobs of ``cancelled`` stages that also work on another one, as packs do."""
    notes = [StageDirectory(root, name).job() for name in cancelled]
    others = {member for note in notes if note is not None for member in note.pack} - set(cancelled)
    left = stage_statuses(root, sorted(others)).values()
    return {_job(status) for status in left if status.alive} & {_job(one) for one in cancelled.values()}


def cell_numbers(words: list[str]) -> list[int]:
    """Numbers of cells from the command line.  Raises :class:`UsageError` for a word that is not a number."""
    wrong = [word for word in words if not word.isdecimal()]
    if wrong:
        raise UsageError(f"{wrong[0]!r} is neither the number of a cell nor an override (KEY=VALUE)")
    return [int(word) for word in words]

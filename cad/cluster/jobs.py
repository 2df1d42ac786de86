"""The jobs of an experiment's stages: their logs, and cancelling them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from cad.cluster.queue import cancel_jobs
from cad.cluster.sending import adopt_lost
from cad.cluster.status import stage_statuses
from cad.cluster.table import pick_cell
from cad.errors import CadError, UsageError
from cad.experiments.plan.cells import distinct_stages
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import Experiment


def log_of(experiment: Experiment, number: int, kind: str | None) -> Path:
    """The log of a cell's stage of the given kind; without a kind, of its latest stage that has one.

    Raises :class:`CadError` when there is no log yet.
    """
    cell = pick_cell(experiment, number)
    if kind is not None and kind not in [stage.kind for stage in cell.stages]:
        raise UsageError(f"--stage {kind}: a cell has {', '.join(stage.kind for stage in cell.stages)}")
    for stage in reversed(cell.stages):
        note = StageDirectory(experiment.root, stage.name).job()
        if kind in (None, stage.kind) and note is not None and note.log(experiment.root).exists():
            return note.log(experiment.root)
    raise CadError(f"cell {number} ({cell.label}, seed {cell.config.seed}) has no log of a Slurm job yet")


def follow(path: Path) -> NoReturn:
    """Print a log from its beginning, then as it grows; replaces this process and never returns."""
    os.execvp("tail", ["tail", "--lines=+1", "--follow=name", str(path)])


def cancel(experiment: Experiment, numbers: list[int]) -> tuple[list[str], list[str]]:
    """Cancel the queued and running jobs of some cells, or of all.

    Returns the ids of the cancelled jobs, and those left alone because another experiment submitted
    them, or because cells that are not cancelled need them.
    """
    adopt_lost(experiment.root)
    chosen = [pick_cell(experiment, number) for number in numbers] or list(experiment.cells)
    others = [cell for cell in experiment.cells if cell not in chosen]
    shared = {stage.name for stage in distinct_stages(tuple(others))}
    stages = [stage.name for stage in distinct_stages(tuple(chosen))]
    own: list[str] = []
    foreign: list[str] = []
    for name, status in stage_statuses(experiment.root, stages).items():
        note = StageDirectory(experiment.root, name).job()
        if status.alive and status.job_id and note is not None:
            mine = note.experiment == experiment.config.name and name not in shared
            (own if mine else foreign).append(status.job_id)
    cancel_jobs(own)
    return own, foreign


def cell_numbers(words: list[str]) -> list[int]:
    """Numbers of cells from the command line.  Raises :class:`UsageError` for a word that is not a number."""
    wrong = [word for word in words if not word.isdecimal()]
    if wrong:
        raise UsageError(f"{wrong[0]!r} is neither the number of a cell nor an override (KEY=VALUE)")
    return [int(word) for word in words]

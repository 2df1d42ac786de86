"""The report of a sweep that is still running, written again whenever a stage has ended or moved."""

from __future__ import annotations

import time
from collections.abc import Callable

from cad.experiments.directory import StageDirectory
from cad.experiments.job import FAILED
from cad.experiments.opened import OpenExperiment
from cad.experiments.plan import Cell, distinct_stages
from cad.interrupt import StopFlag

Tell = Callable[[str], None]


def keep_reporting(
    experiment: OpenExperiment, write: Callable[[], object], every: float, stop: StopFlag, tell: Tell
) -> None:
    """Call ``write`` now and whenever something moved, looking every ``every`` seconds.

    Returns when every cell is done or has failed, after a last ``write``.  Raises
    :class:`~cad.interrupt.InterruptedRun` when it was asked to stop.
    """
    seen: object = None
    while True:
        # Looked at before writing: what moves meanwhile is written the next time.
        now, left = _state(experiment), _unsettled(experiment)
        if now != seen:
            write()
            seen = now
            tell(f"{len(experiment.cells) - left} of {len(experiment.cells)} cells have ended")
        if not left:
            return
        until = time.monotonic() + every
        while time.monotonic() < until:
            stop.raise_if_set("watching")
            time.sleep(min(0.2, every))


def _state(experiment: OpenExperiment) -> tuple[tuple[bool, bool, float | None], ...]:
    """Of every stage: whether it is done, whether it failed, how far it is."""
    directories = [StageDirectory(experiment.root, stage) for stage in distinct_stages(experiment.cells)]
    return tuple(
        (found.done, found.file(FAILED).exists(), found.progress().get("done")) for found in directories
    )


def _unsettled(experiment: OpenExperiment) -> int:
    """How many cells have neither a result nor a failed stage."""
    return sum(not _settled(experiment, cell) for cell in experiment.cells)


def _settled(experiment: OpenExperiment, cell: Cell) -> bool:
    directories = [StageDirectory(experiment.root, stage) for stage in cell.stages]
    return directories[-1].done or any(not d.done and d.file(FAILED).exists() for d in directories)

"""Rewrite the report of a running sweep whenever a stage has ended or moved on."""

from __future__ import annotations

import time
from collections.abc import Callable

from cad.experiments.plan.cells import Cell, distinct_stages
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import Experiment
from cad.interrupt import StopFlag

Tell = Callable[[str], None]


def keep_reporting(
    experiment: Experiment, write: Callable[[], object], every: float, stop: StopFlag, tell: Tell
) -> None:
    """Call ``write`` now, then whenever something has changed, checking every ``every`` seconds.

    Returns when every cell is done or has failed, after a last ``write``.  Raises
    :class:`~cad.interrupt.InterruptedRun` when ``stop`` is set.
    """
    seen: object = None
    while True:
        # Read before writing: changes during the write are written the next time.
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


def _state(experiment: Experiment) -> tuple[tuple[bool, bool, float | None], ...]:
    """For every stage: whether it is done, whether it failed or was pruned, and its progress."""
    directories = [StageDirectory(experiment.root, stage.name) for stage in distinct_stages(experiment.cells)]
    return tuple((each.done, _has_ended(each), each.progress().get("done")) for each in directories)


def _unsettled(experiment: Experiment) -> int:
    """How many cells have neither a result nor a stage that failed or was pruned."""
    return sum(not _settled(experiment, cell) for cell in experiment.cells)


def _settled(experiment: Experiment, cell: Cell) -> bool:
    directories = [StageDirectory(experiment.root, stage.name) for stage in cell.stages]
    return directories[-1].done or any(_has_ended(each) for each in directories)


def _has_ended(directory: StageDirectory) -> bool:
    """Whether it failed, or was ended early."""
    return directory.failure() is not None or directory.pruned() is not None

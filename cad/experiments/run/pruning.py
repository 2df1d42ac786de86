"""End trainings early that fall hopelessly behind on validation tasks (``prune`` of an experiment)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from cad.errors import CadError
from cad.experiments.plan.cells import distinct_stages
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.experiment import Experiment
from cad.schema import Prune
from cad.training.metrics import read_metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pruning:
    """The rule, and the trainings of an experiment that are compared with each other.

    What is known of the others depends on when they run: the same experiment may end other trainings on
    another day.
    """

    root: Path
    rule: Prune
    trainings: tuple[str, ...]

    def verdict(self, name: str, update: int, n_updates: int, best: float) -> str | None:
        """Why the training ``name`` is to end now, given its ``best`` validation return so far."""
        if update < self.rule.after * n_updates:
            return None
        others = {other: self._best_until(other, update) for other in self.trainings if other != name}
        ahead = max(others, key=others.__getitem__, default=None)
        if ahead is None or best >= others[ahead] - self.rule.behind:
            return None
        return (
            f"its best validation return is {best:.3f} after {update} of {n_updates} updates, where {ahead} "
            f"had {others[ahead]:.3f} (prune.behind={self.rule.behind:g})"
        )

    def _best_until(self, name: str, update: int) -> float:
        """The best validation return of a training up to an update; minus infinity where none can be read."""
        try:
            records = read_metrics(StageDirectory(self.root, name).file(StageFile.METRICS))
        except CadError as error:  # another node may just be writing it; no reason to fail here
            log.warning("not compared with %s: %s", name, error)
            return -float("inf")
        key = "validation_return"
        return max((r[key] for r in records if key in r and r["step"] <= update), default=-float("inf"))


def pruning_of(experiment: Experiment) -> Pruning | None:
    """The pruning that an experiment asks for."""
    rule = experiment.config.prune
    if rule is None:
        return None
    trainings = tuple(dict.fromkeys(cell.training.name for cell in experiment.cells))
    return Pruning(experiment.root, rule, trainings)


def pruned_stages(experiment: Experiment) -> set[str]:
    """The names of stages that an experiment with ``prune`` leaves out: pruned ones, and what needs them."""
    out: set[str] = set()
    if experiment.config.prune is None:
        return out
    for stage in distinct_stages(experiment.cells):
        directory = StageDirectory(experiment.root, stage.name)
        if directory.pruned() is not None or any(needed.name in out for needed in stage.inputs):
            out.add(stage.name)
    return out

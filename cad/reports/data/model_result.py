"""A model of the report: the cells that differ only by their seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cad.errors import CadError
from cad.reports.data.cells import CellSummary, TaskScore
from cad.reports.data.measure import Measure, measure_of
from cad.reports.data.model_facts import ModelFacts, model_facts
from cad.reports.data.model_returns import ModelReturns
from cad.reports.data.results import FloatArray
from cad.schema import Config


@dataclass(frozen=True, eq=False)
class ModelResult:
    """Cells that differ only by their seed: one line of the report."""

    label: str
    arm: str  # entry of the experiment file that it comes from
    config: Config  # with seed 0
    cells: tuple[CellSummary, ...]

    @cached_property
    def facts(self) -> ModelFacts:
        """Depth, latents, window and the like."""
        return model_facts(self.config)

    @property
    def experiment(self) -> str:
        """Name of its experiment in a report that compares several; else empty."""
        return self.cells[0].result.experiment

    @property
    def measure(self) -> Measure:
        """The words for its scores."""
        return measure_of(self.config)

    @property
    def equal_state(self) -> str | None:
        """Which setting was chosen for a state as large as another model's, in words; None where none was."""
        return self.cells[0].result.equal_state

    @property
    def chosen_settings(self) -> frozenset[str]:
        """Settings that follow from others: no question of their own."""
        return frozenset({"train.batch_size"} if self.cells[0].result.steps_per_update else ())

    @cached_property
    def done(self) -> tuple[CellSummary, ...]:
        """The cells that count."""
        return tuple(cell for cell in self.cells if cell.done)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of :attr:`done`."""
        return tuple(cell.result.config.seed for cell in self.done)

    @property
    def seed_scores(self) -> list[float]:
        """normalised_last10 of each done seed."""
        return [cell.normalised_last10 for cell in self.done if cell.normalised_last10 is not None]

    @cached_property
    def score(self) -> float | None:
        """Mean of normalised_last10 over the done seeds; None where there is none."""
        scores = self.seed_scores
        return float(np.mean(scores)) if scores else None

    @cached_property
    def returns(self) -> ModelReturns:
        """Returns of the done cells; there must be at least one."""
        normalised = np.stack([cell.normalised for cell in self.done if cell.normalised is not None])
        demonstrated = self.config.evaluation.demonstrated_episodes
        return ModelReturns(normalised, self.done[0].history, self.measure.bounded, demonstrated)

    def curve_of(self, seeds: Sequence[int]) -> FloatArray:
        """(episodes,) mean over roll-outs, then tasks, then some of the seeds."""
        curve: FloatArray = self.returns.seed_curves[[self.seeds.index(seed) for seed in seeds]].mean(axis=0)
        return curve

    def scores_of(self, seeds: Sequence[int]) -> FloatArray:
        """(seeds, tasks) scores of some seeds, tasks in the order of their ids, so that models pair."""
        return self._by_task(self.returns.scores, seeds)

    def means_of(self, seeds: Sequence[int], episodes: slice) -> FloatArray:
        """As :meth:`scores_of`, means over these episodes."""
        return self._by_task(self.returns.units[:, :, episodes].mean(axis=2), seeds)

    def _by_task(self, values: FloatArray, seeds: Sequence[int]) -> FloatArray:
        order = np.argsort(self.done[0].result.task_ids, kind="stable")
        return values[[self.seeds.index(seed) for seed in seeds]][:, order]

    @cached_property
    def task_scores(self) -> tuple[TaskScore, ...]:
        """Per task, means over the done seeds."""
        by_seed = np.array(
            [[(task.normalised_last10, task.never_found) for task in cell.per_task] for cell in self.done]
        )
        first = self.done[0].per_task
        return tuple(
            TaskScore(task.task_id, task.goal, task.optimum, float(score), float(never))
            for task, (score, never) in zip(first, by_seed.mean(axis=0), strict=True)
        )


def model_results(cells: Sequence[CellSummary]) -> tuple[ModelResult, ...]:
    """Put cells with one label and config (apart from the seed) together, in order of appearance.

    Raises :class:`CadError` if a cell is given twice, which would count it twice.
    """
    members: dict[tuple[str, str, str], list[CellSummary]] = {}
    for cell in cells:
        result = cell.result
        shape = "" if cell.normalised is None else repr((cell.normalised.shape, result.task_ids))
        same = result.config.model_copy(update={"seed": 0}).model_dump_json()
        members.setdefault((result.label, same, shape), []).append(cell)
    for label, same, shape in list(members):
        # A missing seed joins its done siblings, whatever the shape of their returns.
        homes = [key for key in members if key[:2] == (label, same) and key[2]]
        if not shape and homes:
            members[homes[0]].extend(members.pop((label, same, shape)))
    for (label, _, _), siblings in members.items():
        seeds = [cell.result.config.seed for cell in siblings]
        if len(set(seeds)) != len(seeds):
            raise CadError(f"two results of cell {label!r} with the same seed; seeds: {sorted(seeds)}")
    return tuple(
        ModelResult(
            label=label,
            arm=siblings[0].result.arm,
            config=siblings[0].result.config.model_copy(update={"seed": 0}),
            cells=tuple(sorted(siblings, key=lambda cell: cell.result.config.seed)),
        )
        for (label, _, _), siblings in members.items()
    )

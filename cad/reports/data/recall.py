"""How well a fact is recalled by its age, for tasks of which each episode needs one of several facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cad.envs.registry import task_family
from cad.reports.data.cells import CellSummary
from cad.reports.data.model_result import ModelResult
from cad.reports.data.results import FloatArray
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, table_if_any

# Ages 1, 2, 3-4, 5-8, ...: lower ends.
_BINS = (1, 2, 3, 5, 9, 17, 33, 65)
FEWEST_EPISODES = 30  # of an age that is drawn and told; the CSV file has all
_COLUMNS = ("label", "seed", "age_from", "age_to", "normalised_return", "episodes")
_BY_COMPRESSIONS = (
    "label", "seed", "compressions_from", "compressions_to", "normalised_return", "episodes",
)  # fmt: skip


@dataclass(frozen=True)
class Recall:
    """Mean normalised return of one cell's episodes whose fact was last needed ``low`` to ``high`` before.

    ``low`` 0 is a fact that the roll-out meets for the first time.
    """

    low: int
    high: int
    mean: float
    episodes: int

    @property
    def ages(self) -> str:
        """The ages in words."""
        return self.span if self.low else "first"

    @property
    def span(self) -> str:
        """From the lowest to the highest."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def ages_of_facts(facts: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Episodes since each episode's fact was last needed, (tasks, roll-outs, episodes); 0: never before."""
    n_episodes = facts.shape[2]
    flat = facts.reshape(-1, n_episodes).astype(np.int64)
    rows, last = np.arange(len(flat)), np.full((len(flat), int(flat.max()) + 1), -1)
    ages = np.zeros_like(flat)
    for episode in range(n_episodes):
        before = last[rows, flat[:, episode]]
        ages[:, episode] = np.where(before < 0, 0, episode - before)
        last[rows, flat[:, episode]] = episode
    return ages.reshape(facts.shape)


def recall_by_age(cell: CellSummary, start: int | None = None) -> list[Recall]:
    """Return by age of the fact, over the episodes from ``start`` on (0 is the first); empty without facts.

    By default over the second half, without demonstrated ones: a fact ages from those on too, but what they
    return is not the model's.  Means over roll-outs and episodes first, then over the tasks that have
    episodes of an age.
    """
    ages = _ages(cell)
    if ages is None or cell.normalised is None:
        return []
    late = slice(recall_start(cell) if start is None else start, None)
    return _binned(ages[:, :, late], cell.normalised[:, :, late])


def recall_by_compressions(cell: CellSummary) -> list[Recall]:
    """:func:`recall_by_age` by how often a fact was compressed instead, of facts that were needed before.

    Counted are compressions since the beginning of the episode that needed it last: 0 is a fact of which the
    window has seen all.  Empty where nothing is compressed.
    """
    ages, before = _ages(cell), cell.compressions_before
    if ages is None or before is None or cell.normalised is None or not before.any():
        return []
    then = np.take_along_axis(before, np.arange(ages.shape[2]) - ages, axis=2)
    late = slice(recall_start(cell), None)
    folded = np.where(ages > 0, before - then, -1)[:, :, late]
    return _binned(folded, cell.normalised[:, :, late])


def _ages(cell: CellSummary) -> npt.NDArray[np.int64] | None:
    """:func:`ages_of_facts` of a cell whose episodes need one of several facts; None where there are none."""
    if cell.result.facts is None or cell.normalised is None:
        return None
    facts = task_family(cell.result.config.evaluated_env).remembered(cell.result.facts)
    return None if facts is None else ages_of_facts(facts)


def _binned(ages: npt.NDArray[np.int64], shares: FloatArray) -> list[Recall]:
    recalls = []
    for low, high in ((0, 0), *zip(_BINS, (*(edge - 1 for edge in _BINS[1:]), ages.max()), strict=True)):
        inside = (ages >= low) & (ages <= high)
        size = inside.sum(axis=(1, 2))
        if size.any():
            total = (shares * inside).sum(axis=(1, 2))
            mean = float((total[size > 0] / size[size > 0]).mean())
            recalls.append(Recall(low, int(high), mean, int(size.sum())))
    return recalls


def recall_start(cell: CellSummary) -> int:
    """From which episode on, 0 the first, recall is looked at."""
    n_episodes = 0 if cell.normalised is None else cell.normalised.shape[2]
    return max(n_episodes // 2, cell.demonstrated)


def mean_recall(model: ModelResult, start: int | None = None) -> list[Recall]:
    """Means over seeds of :func:`recall_by_age`, for the ages that all seeds have."""
    return _means([recall_by_age(cell, start) for cell in model.done])


def compressed_recall(model: ModelResult) -> list[Recall]:
    """Means over seeds of :func:`recall_by_compressions`, of counts that enough episodes have."""
    means = _means([recall_by_compressions(cell) for cell in model.done])
    return [item for item in means if item.episodes >= FEWEST_EPISODES]


def _means(recalls: Sequence[Sequence[Recall]]) -> list[Recall]:
    by_seed = [{(item.low, item.high): item for item in seed} for seed in recalls]
    if not by_seed:
        return []
    lows = [key for key in by_seed[0] if all(key[0] in {low for low, _ in seed} for seed in by_seed)]
    means = []
    for low, high in lows:
        items = [item for seed in by_seed for item in seed.values() if item.low == low]
        mean = sum(item.mean for item in items) / len(items)
        means.append(Recall(low, max(high, *(i.high for i in items)), mean, sum(i.episodes for i in items)))
    return means


def repeated_recall(model: ModelResult, start: int | None = None) -> list[Recall]:
    """:func:`mean_recall` of facts that were needed before, at ages that enough episodes have."""
    return [item for item in mean_recall(model, start) if item.low and item.episodes >= FEWEST_EPISODES]


def recall_tables(study: Study) -> dict[str, Table]:
    """``recall``: return by age of the fact, each model and seed; ``recall_by_compressions``: by how often
    it was compressed."""
    rows: list[tuple[Value, ...]] = [
        (cell.result.label, cell.result.config.seed, item.low, item.high, item.mean, item.episodes)
        for cell in study.cells
        for item in recall_by_age(cell)
    ]
    folded: list[tuple[Value, ...]] = [
        (cell.result.label, cell.result.config.seed, item.low, item.high, item.mean, item.episodes)
        for cell in study.cells
        for item in recall_by_compressions(cell)
    ]
    return table_if_any("recall", _COLUMNS, rows) | table_if_any(
        "recall_by_compressions", _BY_COMPRESSIONS, folded
    )

"""What a model does with facts that it was shown, beside the same model that was shown none."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cad.envs.registry import task_family
from cad.reports.data.cells import LAST_EPISODES, CellSummary
from cad.reports.data.differences import paired, sharing_seeds
from cad.reports.data.measure import OPTIMUM
from cad.reports.data.model_result import ModelResult
from cad.reports.data.recall import Recall, recall_start, repeated_recall
from cad.reports.data.results import FloatArray
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, finite, table_if_any

_LITTLE = 0.1  # share of the optimum: where no more is missing, nothing is to be explained
_COLUMNS = (
    "label", "without", "demonstrated_episodes", "episodes_after", "after", "last", "without_last",
    "difference_after", "difference_after_low_95", "difference_after_high_95", "difference_last",
    "difference_last_low_95", "difference_last_high_95", "without_same_episodes", "share_shown_before",
    "after_where_shown", "missing", "n_seeds",
)  # fmt: skip

_BY_EPISODE = ("label", "episode", "demonstrated", "normalised_return", "without")
_RECALL = (
    "label", "without", "demonstrated_episodes", "age_from", "age_to", "normalised_return", "episodes",
)  # fmt: skip


@dataclass(frozen=True)
class Gain:
    """A mean minus another one, paired, with its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Demonstration:
    """A model that was shown the first ``shown`` episodes, and the same one that was not (``plain``).

    Means of normalised return on the seeds that both have: ``after`` over the ``n_after`` episodes right
    after the demonstration, ``last`` over the last ones of its own, ``plain_last`` and ``plain_after`` over
    the last and over the same episodes without.  ``needed`` is the share of the episodes right after it
    whose fact was needed in a demonstrated one, and ``after_needed`` the return over those alone; 1 and
    ``after`` where a task is one fact, None where episodes leave each other nothing to remember.

    ``after_gain`` and ``last_gain`` are over ``plain_last``, ``after_more`` and ``last_more`` over what lies
    half-way from there to the optimum, task by task and seed by seed; ``needed_more`` is ``after`` over what
    lies half-way in the share ``needed`` of episodes alone.
    """

    model: ModelResult
    plain: ModelResult
    shown: int
    n_after: int
    seeds: tuple[int, ...]
    after: float
    last: float
    plain_last: float
    plain_after: float
    after_gain: Gain
    last_gain: Gain
    after_more: Gain
    last_more: Gain
    needed_more: Gain
    needed: float | None
    after_needed: float | None

    @property
    def missing(self) -> str:
        """What the model lacks without a demonstration, as far as the intervals tell.

        Of what it lacks without one, a model that only fails to find facts should make up for all once it is
        shown them; one that lacks memory may lack exploration too.  ``memory``: it makes up for less than
        half, right after the demonstration (there of the share whose fact was shown) and at the end.
        ``exploration``: for more than half, both times.  ``lasting memory``: for more than half right after
        it, for less at the end.  ``unclear``: any other intervals.  Empty where little is lacking, or where
        there is no optimum, no interval, or no fact to keep.
        """
        now, end = self.after_more, self.last_more
        known = math.isfinite(now.low) and math.isfinite(end.low) and self.model.measure == OPTIMUM
        if not known or self.needed is None or 1 - self.plain_last < _LITTLE:
            return ""
        if self.needed_more.high < 0 and end.high < 0:
            return "memory"
        if now.low > 0 and end.low > 0:
            return "exploration"
        if now.low > 0 and end.high < 0:
            return "lasting memory"
        return "unclear"


def demonstrations(study: Study) -> list[Demonstration]:
    """Every model with demonstrated episodes that has the same one without beside it, in order."""
    made = []
    for model in study.models if study.comparable else ():
        evaluation = model.config.evaluation
        if not evaluation.demonstrated_episodes or evaluation.knock_out is not None or not model.done:
            continue
        plain = study.beside(model, demonstrated_episodes=0)
        seeds = tuple(seed for seed in model.seeds if plain is not None and seed in plain.seeds)
        if plain is not None and seeds:
            made.append(_compared(model, plain, seeds))
    return made


def _compared(model: ModelResult, plain: ModelResult, seeds: tuple[int, ...]) -> Demonstration:
    shown = model.config.evaluation.demonstrated_episodes
    window = slice(shown, min(shown + LAST_EPISODES, model.returns.n_episodes))
    after, plain_after = (each.means_of(seeds, window) for each in (model, plain))
    last, plain_last = (each.scores_of(seeds) for each in (model, plain))
    needed, after_needed = _where_shown(model, seeds, window)
    return Demonstration(
        model, plain, shown, window.stop - window.start, seeds,
        after=float(after.mean()),
        last=float(last.mean()),
        plain_last=float(plain_last.mean()),
        plain_after=float(plain_after.mean()),
        after_gain=_gain(after, plain_last),
        last_gain=_gain(last, plain_last),
        after_more=_gain(after, _half_way(plain_last)),
        last_more=_gain(last, _half_way(plain_last)),
        needed_more=_gain(after, _half_way(plain_last, 1.0 if needed is None else needed)),
        needed=needed,
        after_needed=after_needed,
    )  # fmt: skip


def _half_way(scores: FloatArray, share: float = 1.0) -> FloatArray:
    """From each score to the optimum, in a share of the episodes."""
    half_way: FloatArray = scores + share * (1 - scores) / 2
    return half_way


def _gain(ours: FloatArray, theirs: FloatArray) -> Gain:
    return Gain(*paired(ours, theirs)[:3])


def _where_shown(
    model: ModelResult, seeds: tuple[int, ...], window: slice
) -> tuple[float | None, float | None]:
    """Share of a window's episodes whose fact was needed in a demonstrated one, and their mean return."""
    shares, means = [], []
    for cell in (model.done[model.seeds.index(seed)] for seed in seeds):
        assert cell.normalised is not None
        values = cell.normalised[:, :, window]
        met = _met(cell, window)
        if met is None:
            return None, None
        shares.append(float(met.mean()))
        size = met.sum(axis=(1, 2))
        if size.any():  # over roll-outs and episodes first, then over the tasks that have such episodes
            means.append(float(((values * met).sum(axis=(1, 2))[size > 0] / size[size > 0]).mean()))
    return float(np.mean(shares)), float(np.mean(means)) if means else None


def _met(cell: CellSummary, window: slice) -> npt.NDArray[np.bool_] | None:
    """(tasks, roll-outs, episodes of a window): whether an episode before it needed the same fact."""
    facts = cell.result.facts
    if facts is None:  # a task is one fact
        assert cell.normalised is not None
        return np.ones(cell.normalised[:, :, window].shape, dtype=bool)
    kept = task_family(cell.result.config.evaluated_env).remembered(facts)
    if kept is None:
        return None
    before, needed = kept[:, :, : window.start], kept[:, :, window]
    met: npt.NDArray[np.bool_] = (needed[..., None] == before[:, :, None]).any(axis=3)
    return met


def by_plain(items: list[Demonstration]) -> dict[str, list[Demonstration]]:
    """Label of a model without a demonstration -> what was made of it."""
    groups: dict[str, list[Demonstration]] = {}
    for item in items:
        groups.setdefault(item.plain.label, []).append(item)
    return groups


def curves_with(items: list[Demonstration]) -> list[tuple[int, FloatArray]]:
    """Demonstrated episodes and the curve (episodes,), without (0) and with, on the seeds that all have."""
    items, seeds = sharing_seeds(items)
    models = [(0, items[0].plain), *((item.shown, item.model) for item in items)]
    return [(shown, model.curve_of(seeds)) for shown, model in models]


def recall_after(items: list[Demonstration]) -> list[tuple[int, ModelResult, list[Recall]]]:
    """Demonstrated episodes, model, recall by age: without (0) and with.

    All over the same episodes: the second half, or those after the longest demonstration if that is later.
    """
    start = max(recall_start(item.model.done[0]) for item in items)
    models = [(0, items[0].plain), *((item.shown, item.model) for item in items)]
    made = [(shown, model, repeated_recall(model, start)) for shown, model in models]
    return made if any(recalls for *_, recalls in made) else []


def demonstration_tables(study: Study) -> dict[str, Table]:
    """``demonstration``: a row a model that was shown; and its curve, and its recall."""
    found = demonstrations(study)
    rows: list[tuple[Value, ...]] = [
        (d.model.label, d.plain.label, d.shown, d.n_after, d.after, d.last, d.plain_last,
         d.after_gain.mean, finite(d.after_gain.low), finite(d.after_gain.high),
         d.last_gain.mean, finite(d.last_gain.low), finite(d.last_gain.high),
         d.plain_after, d.needed, d.after_needed, d.missing, len(d.seeds))
        for d in found
    ]  # fmt: skip
    curves: list[tuple[Value, ...]] = [
        (d.model.label, i + 1, int(i < d.shown), float(value), float(plain))
        for d in found
        for i, (value, plain) in enumerate(
            zip(*(m.curve_of(d.seeds) for m in (d.model, d.plain)), strict=True)
        )
    ]
    recalls: list[tuple[Value, ...]] = [
        (model.label, label, shown, item.low, item.high, item.mean, item.episodes)
        for label, items in by_plain(found).items()
        for shown, model, recall in recall_after(items)
        for item in recall
    ]
    return (
        table_if_any("demonstration", _COLUMNS, rows)
        | table_if_any("demonstration_by_episode", _BY_EPISODE, curves)
        | table_if_any("demonstration_recall", _RECALL, recalls)
    )

"""Effect of depth alone and of latents alone: means over the other axis of a complete grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cad.reports.data.differences import paired
from cad.reports.data.grid import Panel, grid_panels
from cad.reports.data.model_returns import FEW_SEEDS
from cad.reports.data.results import FloatArray
from cad.reports.data.statistics import mean_interval
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, table_if_any

_COLUMNS = ("panel", "axis", "value", "mean", "low_95", "high_95", "n_seeds", "n_models")
_AXES = ("depth", "latents")


@dataclass(frozen=True)
class Marginal:
    """Mean over the models of a grid that share one depth, or one number of latents."""

    axis: int  # 0: depth, 1: latents
    value: int
    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    n_models: int


def shared_seeds(panel: Panel) -> tuple[int, ...]:
    """Seeds that are done at every spot of a panel; empty where it has gaps."""
    if len(panel.spots) < len(panel.depths) * len(panel.latents):
        return ()
    seeds = [set(model.seeds) for model in panel.spots.values()]
    return tuple(sorted(set.intersection(*seeds)))


def marginals(panel: Panel, axis: int) -> list[Marginal]:
    """Along an axis with more than one value, on the seeds that all spots share; empty with gaps."""
    seeds, values = shared_seeds(panel), (panel.depths, panel.latents)[axis]
    if not seeds or len(values) <= 1:
        return []
    means = []
    for value in values:
        models = [model for spot, model in panel.spots.items() if spot[axis] == value]
        scores: FloatArray = np.mean([model.scores_of(seeds) for model in models], axis=0)
        low, high = mean_interval(scores[..., None], len(seeds) > FEW_SEEDS)
        by_seed = tuple(float(x) for x in scores.mean(axis=1))
        ends = float(low[0]), float(high[0])
        if models[0].measure.bounded:  # a stretched interval may leave the range of possible returns
            ends = max(ends[0], min(0.0, float(scores.min()))), min(ends[1], max(1.0, float(scores.max())))
        means.append(Marginal(axis, value, float(scores.mean()), *ends, by_seed, len(models)))
    return means


def extremes(panel: Panel, axis: int) -> tuple[float, float, float]:
    """Mean at the highest value of an axis minus that at the lowest, paired, with its 95% interval."""
    seeds, values = shared_seeds(panel), (panel.depths, panel.latents)[axis]
    low, high = (
        np.mean([m.scores_of(seeds) for spot, m in panel.spots.items() if spot[axis] == value], axis=0)
        for value in (values[0], values[-1])
    )
    difference, *ends, _ = paired(high, low)
    return difference, ends[0], ends[1]


def marginal_tables(study: Study) -> dict[str, Table]:
    """``marginals``, where a grid is complete."""
    rows: list[tuple[Value, ...]] = [
        (panel.title, _AXES[axis], m.value, m.mean, *(v if np.isfinite(v) else None for v in (m.low, m.high)),
         len(m.by_seed), m.n_models)
        for panel in (grid_panels(study) if study.comparable else [])
        for axis in (0, 1)
        for m in marginals(panel, axis)
    ]  # fmt: skip
    return table_if_any("marginals", _COLUMNS, rows)

"""Performance profile: in how many of its runs does a model reach at least a given return?"""

from __future__ import annotations

import numpy as np

from cad.reports.data.model_result import ModelResult
from cad.reports.data.results import FloatArray
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, table_if_any

_COLUMNS = ("label", "threshold", "share", "low_95", "high_95")
THRESHOLDS = np.round(np.linspace(0, 1, 201), 10)


def profile(model: ModelResult) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Share of (seed, task) pairs at or above each of :data:`THRESHOLDS`, and its 95% interval."""
    returns = model.returns
    # Returns are sums of rewards divided by optima: the optimum itself must count as reaching 1.
    reached = (returns.scores[..., None] >= THRESHOLDS - 1e-9).astype(np.float64)
    return reached.mean(axis=(0, 1)), *returns.interval(reached, bounded=True)


def profile_tables(study: Study) -> dict[str, Table]:
    """``profile``, where a cell is done; returns as they are have no levels to reach."""
    rows: list[tuple[Value, ...]] = [
        (model.label, *(float(value) if np.isfinite(value) else None for value in point))
        for model in (study.scored if study.measure.unit else ())
        for point in zip(THRESHOLDS, *profile(model), strict=True)
    ]
    return table_if_any("profile", _COLUMNS, rows)

"""What trainings wrote as they went: loss, accuracy, gradient norm, validation return."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cad.reports.data.cells import CellSummary
from cad.reports.data.results import CellResult
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value

MetricLines = Sequence[Mapping[str, Any]] | None


def metric_series(lines: MetricLines, metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric; lines without a finite value of it are left out."""
    pairs = [
        (float(line["step"]), float(line[metric]))
        for line in lines or ()
        if isinstance(line.get("step"), int | float) and isinstance(line.get(metric), int | float)
    ]
    pairs = [(step, value) for step, value in pairs if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def metrics_by_depth(cell: CellSummary, metric: str) -> dict[int, str]:
    """Depth -> metric name, of the metrics ``<metric>_depth_<k>`` that a cell's training wrote."""
    prefix = f"{metric}_depth_"
    names = {name for line in cell.result.metrics or () for name in line if name.startswith(prefix)}
    depths = {int(name[len(prefix) :]): name for name in names if name[len(prefix) :].isdigit()}
    return dict(sorted(depths.items()))


def training_tables(study: Study) -> dict[str, Table]:
    """``training``, and ``pretraining`` where there was one."""
    pretraining = _metric_table(study, lambda result: result.pretrain_metrics)
    tables = {"training": _metric_table(study, lambda result: result.metrics)}
    return tables | ({"pretraining": pretraining} if pretraining.rows else {})


def _metric_table(study: Study, of: Callable[[CellResult], MetricLines]) -> Table:
    """Every metric at every step that some cell wrote; unknown values are None."""
    everything = [(cell, of(cell.result) or ()) for cell in study.cells]
    names = dict.fromkeys(name for _, lines in everything for line in lines for name in line)
    metrics = [name for name in names if not _left_out(name)]
    rows: list[tuple[Value, ...]] = [
        (
            cell.result.label,
            cell.result.config.seed,
            line.get("step"),
            *(_number(line.get(metric)) for metric in metrics),
        )
        for cell, lines in everything
        for line in lines
    ]
    return Table(("label", "seed", "step", *metrics), rows)


def _left_out(name: str) -> bool:
    """Timings, which no second run repeats, and what the config holds."""
    return name.endswith("_per_second") or name in ("step", "learning_rate", "seconds")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

"""Return by episode of each model and of the source algorithm; scores of each task."""

from __future__ import annotations

from cad.reports.data.labels import goal_text
from cad.reports.data.model_result import ModelResult
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, finite


def is_long(study: Study) -> bool:
    """Whether roll-outs have more episodes than a source history."""
    return any(model.returns.n_episodes > model.returns.history for model in study.scored)


def learning_tables(study: Study) -> dict[str, Table]:
    """``return_by_episode`` of each model and seed, and ``source``."""
    source = [] if study.source is None else study.source.mean(axis=0).tolist()
    return {
        "return_by_episode": Table(
            ("label", "seed", "episode", "normalised_return", "low_95", "high_95"),
            [row for model in study.scored for row in _curve_rows(model)],
        ),
        "source": Table(
            ("episode", "normalised_return"), [(i + 1, float(value)) for i, value in enumerate(source)]
        ),
    }


def _curve_rows(model: ModelResult) -> list[tuple[Value, ...]]:
    """Rows of each seed, and with seed "mean" those of the line and band that are drawn."""
    rows: list[tuple[Value, ...]] = []
    low, high = model.returns.band
    for i, value in enumerate(model.returns.curve):
        rows.append((model.label, "mean", i + 1, float(value), finite(low[i]), finite(high[i])))
    for seed, curve in zip(model.seeds, model.returns.seed_curves, strict=True):
        rows.extend((model.label, seed, i + 1, float(value), None, None) for i, value in enumerate(curve))
    return rows


def task_tables(study: Study) -> dict[str, Table]:
    """``per_task``: the score of each cell on each task."""
    rows: list[tuple[Value, ...]] = [
        (cell.result.label, cell.result.config.seed, int(task.task_id), goal_text(task.goal), task.optimum,
         task.normalised_last10, finite(task.never_found))
        for cell in study.cells for task in cell.per_task
    ]  # fmt: skip
    columns = ("label", "seed", "task_id", "goal", "optimum", "normalised_last10", "never_found")
    return {"per_task": Table(columns, rows)}

"""What a model costs, and which models no other beats in both cost and return."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cad.reports.data.model_result import ModelResult
from cad.reports.data.results import CellResult
from cad.reports.data.statistics import pareto_front
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, table_if_any

_COLUMNS = ("label", "cost", "value", "normalised_last10", "on_front")


@dataclass(frozen=True)
class Cost:
    """One thing that a model costs, or a speed that it reaches."""

    text: str  # with its unit, for axes
    word: str  # for sentences
    of: Callable[[CellResult], float | None]
    less_is_better: bool


def mean_cost(model: ModelResult, quantity: Callable[[CellResult], float | None]) -> float | None:
    """Mean of a quantity over the done seeds that know it; None if none does or one is not finite."""
    values = [value for cell in model.done if (value := quantity(cell.result)) is not None]
    return float(np.mean(values)) if values and all(map(math.isfinite, values)) else None


def costs() -> tuple[Cost, ...]:
    """State, training and speed."""
    return (
        Cost(
            "state kept for a roll-out, KiB",
            "state",
            lambda r: None if r.state_bytes is None else r.state_bytes / 1024,
            True,
        ),
        Cost(
            "training, core-hours",
            "training core-hours",
            lambda r: None if r.core_minutes is None else r.core_minutes / 60,
            True,
        ),
        Cost("evaluation, steps a second", "speed", lambda r: r.evaluation_steps_per_second, False),
    )


def front(study: Study, cost: Cost) -> list[ModelResult]:
    """Models than which no other is both better and cheaper, from the cheapest on."""
    known = [
        (model, value, model.score)
        for model in study.scored
        if (value := mean_cost(model, cost.of)) is not None and value > 0 and model.score is not None
    ]
    signed = [value if cost.less_is_better else -value for _, value, _ in known]
    return [known[i][0] for i in pareto_front(signed, [score for *_, score in known])]


def minutes_before(result: CellResult) -> float | None:
    """Core-minutes of what a training started from; None where unknown."""
    if result.core_minutes is None:
        return None
    return sum((part.seconds or 0.0) * part.cores / 60 for part in result.parts[:-1])


def mean_compressions(model: ModelResult) -> float | None:
    """Compressions in a roll-out, mean over the done seeds; None where unknown."""
    values = [cell.compressions for cell in model.done if cell.compressions is not None]
    return sum(values) / len(values) if values else None


def pareto_tables(study: Study) -> dict[str, Table]:
    """``pareto``: model, cost, its value, return, whether on the front."""
    rows: list[tuple[Value, ...]] = [
        (model.label, cost.text, mean_cost(model, cost.of), model.score, str(model in best).lower())
        for cost in (costs() if study.comparable else ())
        for best in [front(study, cost)]
        for model in study.scored
    ]
    return table_if_any("pareto", _COLUMNS, rows)

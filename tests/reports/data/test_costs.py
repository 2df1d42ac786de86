"""Pareto fronts and costs of several training parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cad.reports import (
    CellResult,
    Study,
    TrainingPart,
    make_study,
)
from cad.reports.data import (
    costs,
    front,
    mean_cost,
)
from cad.reports.questions import (
    data_tables,
)

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult], **how: Any) -> Study:
    return make_study("s", "", "", cells, None, **how)


def test_pareto_fronts_by_cost_that_is_bad_and_speed_that_is_good(cell: Make) -> None:
    def part(seconds: float) -> tuple[TrainingPart, ...]:
        before = TrainingPart("pre-training", seconds / 2, 500, 1000, 2)
        return before, TrainingPart("training", seconds, 1500, 3000, 1)

    cells = [
        cell(0.95, depth=1, state_bytes=3000, evaluation_steps_per_second=10.0, parts=part(600)),
        cell(0.80, depth=2, state_bytes=2000, evaluation_steps_per_second=30.0, parts=part(300)),
        cell(0.60, depth=3, state_bytes=2500, evaluation_steps_per_second=20.0, parts=part(100)),
    ]
    study = study_of(cells)
    state, training, speed = costs()
    assert [[g.facts.depth for g in front(study, cost)] for cost in (state, training, speed)] == [
        [2, 1], [3, 2, 1], [2, 1]
    ]  # fmt: skip
    assert training.text == "training, core-hours"
    assert mean_cost(study.models[0], training.of) == pytest.approx((600 / 2 * 2 + 600) / 3600)
    row = dict(zip(data_tables(study)["cost"].columns, data_tables(study)["cost"].rows[0], strict=True))
    assert (row["updates"], row["supervised_actions"], row["core_minutes"]) == (2000, 4000, 20.0)
    unknown = cell(parts=(*part(60), TrainingPart("training", None, None, None, 1)))
    assert (unknown.core_minutes, unknown.updates, unknown.supervised_actions) == (None, None, None)

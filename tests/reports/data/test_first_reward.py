"""Roll-outs that never get a reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cad.reports import (
    CellResult,
    Study,
    make_study,
)
from cad.reports.data import (
    first_rewards,
)

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult], **how: Any) -> Study:
    return make_study("s", "", "", cells, None, **how)


def test_rollouts_that_never_found_the_goal(cell: Make) -> None:
    one = cell(0.9)
    one.returns[2, :3] = 0
    one.returns[3, 0] = 0
    one.returns[3, 0, 17] = 1
    summary = study_of([one]).cells[0]
    first = first_rewards(summary)
    assert np.isinf(first[2, :3]).all() and first[3, 0] == 18
    assert [task.never_found for task in summary.per_task] == [0, 0, 3 / 8, 0, 0, 0, 0, 0]

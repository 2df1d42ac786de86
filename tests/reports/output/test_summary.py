"""What cells were evaluated on: compared, refused or cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cad.errors import CadError
from cad.reports import (
    CellResult,
    Study,
    make_study,
)
from cad.reports.data import (
    all_differences,
)
from cad.reports.output.summary import headline, notices

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult], **how: Any) -> Study:
    return make_study("s", "", "", cells, None, **how)


def test_unequal_evaluations_are_apart_refused_or_cut(cell: Make) -> None:
    whole, part = cell(kind="ad", window=80), cell(shape=(4, 8, 30))
    assert all_differences(study_of([whole, part])) == ()
    for how in {"unequal": "refuse"}, {"reference": "AD, window 80", "unequal": "refuse"}:
        with pytest.raises(CadError, match="--allow-unequal"):
            study_of([whole, part], **how)
    study = study_of([whole, part], unequal="cut")
    assert "30 episodes on 4 held-out goals" in headline(study)
    assert any("4 tasks that all share (4 left out) and their first 30 episodes (of up to 50)" in line
               for line in notices(study))  # fmt: skip
    expected = whole.returns[:4, :, 20:30].mean(axis=(1, 2)) / np.array(whole.optimal[:4])
    assert study.cells[0].normalised_last10 == pytest.approx(expected.mean())
    equal = study_of([whole, cell()], unequal="cut")
    assert equal.trimmed == "" and equal.cells[0].result is whole
    with pytest.raises(CadError, match="share no"):
        study_of([whole, dataclasses.replace(part, task_ids=(1, 2, 3, 5))], unequal="cut")

"""Means along the axes of a grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from cad.reports import (
    CellResult,
    Study,
    make_study,
)
from cad.reports.questions import (
    data_tables,
    depth_and_latents,
)

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult], **how: Any) -> Study:
    return make_study("s", "", "", cells, None, **how)


def test_marginals_use_the_seeds_of_a_complete_grid(cell: Make) -> None:
    cells = [
        cell(0.5 + 0.1 * depth + (0.01 if n_latent == 16 else 0), depth=depth, n_latent=n_latent, seed=seed)
        for depth in (1, 3) for n_latent in (4, 16) for seed in (0, 1)
    ]  # fmt: skip
    rows = {(axis, value): (mean, low, high, seeds) for _, axis, value, mean, low, high, seeds, _ in
            data_tables(study_of(cells))["marginals"].rows}  # fmt: skip
    scores = {(g.facts.depth, g.facts.n_latent): g.score for g in study_of(cells).models}
    assert rows["depth", 3][0] == pytest.approx((scores[3, 4] + scores[3, 16]) / 2)
    assert rows["latents", 4][0] == pytest.approx((scores[1, 4] + scores[3, 4]) / 2)
    assert all(low < mean < high and seeds == 2 for mean, low, high, seeds in rows.values())
    cells[-1] = dataclasses.replace(cells[-1], status="missing", returns=None)
    assert "over the one seed that every cell of the grid has" in depth_and_latents.sentence(study_of(cells))
    assert "grid has gaps" in depth_and_latents.sentence(study_of(cells[2:]))

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
    SourceCurve,
    Study,
    figures,
    make_study,
)
from cad.reports.data import (
    all_differences,
    grid_panels,
)
from cad.reports.output.summary import depth_and_latents, headline, notices, qualification

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


def level(cell: Make, share: float, **changes: Any) -> CellResult:
    """A cell that returns the same share of the optimum in every episode."""
    made = cell(**changes)
    returns = np.broadcast_to(np.array(made.optimal)[:, None, None] * share, (8, 8, 50))
    return dataclasses.replace(made, returns=np.array(returns))


def test_the_answer_compares_the_corner_of_the_grid_whatever_is_best(cell: Make) -> None:
    cells = [
        level(cell, 0.3, depth=1, n_latent=1), level(cell, 0.6, depth=1, n_latent=4),
        level(cell, 0.2, depth=7, n_latent=1), level(cell, 0.5, depth=7, n_latent=4),
        level(cell, 0.25, kind="ad", window=44),
    ]  # fmt: skip
    assert depth_and_latents(study_of(cells)) == (
        "With 4 latents, depth 7 instead of 1 changes the return by -0.100 [-0.100, -0.100 over tasks, with "
        "1 seed]; at depth 7, 4 latents instead of 1 by +0.300 [+0.300, +0.300 over tasks, with 1 seed], in "
        "shares of the optimum. With as much state (88.0 KiB a roll-out), CompressedAD (window 40, depth 7, "
        "4 latents) returns 0.50 of the optimum and AD, window 44 0.25, a difference of +0.250 [+0.250, "
        "+0.250 over tasks, with 1 seed]."
    )
    assert depth_and_latents(study_of(cells[-1:])) == ""


def test_a_batch_size_that_was_chosen_for_the_steps_of_an_update_splits_no_grid(cell: Make) -> None:
    def sized(depth: int, windows: int, chosen: int | None) -> CellResult:
        made = cell(depth=depth)
        train = made.config.train.model_copy(update={"batch_size": windows})
        config = made.config.model_copy(update={"train": train})
        return dataclasses.replace(made, config=config, steps_per_update=chosen)

    for chosen, panels in ((3840, 1), (None, 2)):
        study = study_of([sized(1, 48, chosen), sized(3, 24, chosen)])
        assert len(grid_panels(study)) == panels


def test_what_is_cut_to_be_compared_is_cut_throughout(cell):
    """Facts, optima and lengths are shaped as returns; compressions are counted to where an episode ended."""
    steps = np.broadcast_to([20, 100, 190], (8, 8, 3))
    whole = cell(lengths=np.full((8, 8, 50), 4), compressions=np.full((8, 8), 3),
                 compression_steps=steps, chosen=np.zeros((8, 8, 3), bool),
                 facts=np.zeros((8, 8, 50), int), optima=np.full((8, 8, 50), 20.0))  # fmt: skip
    short = cell(n_latent=4, shape=(8, 8, 30), optima=np.full((8, 8, 30), 20.0))
    study = study_of([whole, short], unequal="cut")
    first, second = study.cells
    assert first.result.lengths.shape == first.result.facts.shape == first.normalised.shape == (8, 8, 30)
    assert first.compressions == 2  # of 30 episodes of 4 steps, not of 30 whole horizons
    assert second.normalised.shape == (8, 8, 30)


@pytest.mark.parametrize(("share", "told"), [(0.3, True), (0.8, False)])
def test_a_model_that_stays_far_below_its_source_is_called_that(
    cell: Make, source: SourceCurve, share: float, told: bool
) -> None:
    """Else a reader of the first screen takes a model that learned nothing for a result."""
    study = make_study("s", "", "", [level(cell, share)], source)
    assert ("The source agents end at 0.97, far above it" in qualification(study)) == told
    assert "far above" not in qualification(make_study("s", "", "", [level(cell, share)], None))


def test_one_depth_and_one_number_of_latents_are_no_heat_map(cell: Make) -> None:
    alone = study_of([cell(), cell(kind="ad", window=80)])
    assert "grid" not in figures(alone)
    assert "grid" in figures(study_of([cell(), cell(depth=1)]))

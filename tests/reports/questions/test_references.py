"""Paired differences: pairs, missing cells, and what is claimed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cad.errors import UsageError
from cad.reports import (
    CellResult,
    Study,
    make_study,
)
from cad.reports.data import (
    all_differences,
)
from cad.reports.output.summary import headline, notices
from cad.reports.questions import (
    references,
)

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult], **how: Any) -> Study:
    return make_study("s", "", "", cells, None, **how)


def planted(cell: Make, effect: float, n_seeds: int, noise: float = 0.03) -> list[CellResult]:
    """AD and a model that is better by ``effect`` of the optimum, on hard and easy tasks and varied seeds."""
    rng = np.random.default_rng(7)
    ease = rng.uniform(0.3, 0.8, (8, 1, 1))
    cells = []
    for seed in range(n_seeds):
        for model, plus in ({"kind": "ad", "window": 80}, 0.0), ({}, effect):
            one = cell(seed=seed, **model)
            level = ease + plus + rng.normal(0, noise) + rng.normal(0, 0.05, (8, 8, 50))
            cells.append(dataclasses.replace(one, returns=level * np.array(one.optimal)[:, None, None]))
    return cells


def test_a_planted_difference_is_claimed_with_many_seeds_only(cell: Make) -> None:
    (actual,) = all_differences(study_of(planted(cell, 0.12, 6)))
    assert actual.low < 0.12 < actual.high and actual.claimed and actual.p_holm is not None
    (few,) = all_differences(study_of(planted(cell, 0.12, 3)))
    assert few.low < few.mean < few.high and few.p_holm is None and not few.claimed
    assert "no significance is claimed" in references.sentence(study_of(planted(cell, 0.12, 3)))
    none = study_of(planted(cell, 0.0, 6))
    assert not all_differences(none)[0].claimed
    assert "1 cannot be told from it" in references.sentence(none)


def test_differences_pair_the_seeds_and_the_tasks_that_both_have(cell: Make) -> None:
    cells = planted(cell, 0.1, 3)
    cells[2] = dataclasses.replace(cells[2], status="failed: out of memory")  # AD's second seed
    # The same tasks in another order are still the same tasks.
    turned = cells[5]
    cells[5] = dataclasses.replace(
        turned, returns=turned.returns[::-1], task_ids=turned.task_ids[::-1], goals=turned.goals[::-1],
        optimal=turned.optimal[::-1],
    )  # fmt: skip
    study = study_of(cells)
    actual = [d for d in all_differences(study) if d.model.label.startswith("CompressedAD")]
    assert sorted(seed for d in actual for seed in d.seeds) == [0, 2]
    for d in actual:
        for seed, stated in zip(d.seeds, d.by_seed, strict=True):
            ad, ours = (c for c in study.cells if c.result.config.seed == seed)
            assert stated == pytest.approx(ours.normalised_last10 - ad.normalised_last10)
    assert any("out of memory" in line for line in notices(study))


def test_a_single_seed_is_no_headline_beside_three(cell: Make) -> None:
    cells = [*planted(cell, 0.1, 3), cell(0.99, depth=1)]
    study = study_of(cells)
    high, low = (
        next(g for g in study.models if g.label == label) for label in (cells[-1].label, cells[1].label)
    )
    assert high.score > low.score  # type: ignore[operator]
    assert study.best(ad=False) is low
    assert "depth 3, 16 latents" in headline(study)
    assert f"same seeds and tasks, {low.label} is above it" in references.sentence(study)


def test_of_planned_seeds_only_done_ones_make_a_headline(cell: Make) -> None:
    cells = [cell(0.95, depth=1)]
    cells += [cell(status="missing", returns=None, depth=1, seed=seed) for seed in (1, 2)]
    cells += [cell(0.8, depth=3, seed=seed) for seed in range(3)]
    lead = study_of(cells).lead
    assert lead is not None and lead.facts.depth == 3


def test_intervals_cover_the_seeds_that_pairs_share(cell: Make) -> None:
    """Models of many seeds each, of which they share three."""
    cells = [cell(0.8, kind="ad", window=80, seed=seed) for seed in range(3, 9)]
    cells += [cell(0.9, seed=seed) for seed in range(6)]
    made = study_of(cells)
    table = references.SECTION.shown_tables[0](made)
    assert table is not None and "tasks, with the 3 training seeds fixed" in table.caption
    drawing = references.SECTION.figures[0](made)
    assert drawing is not None and "tasks, with the 3 training seeds fixed" in drawing.caption


def test_models_trained_by_other_rules_are_not_compared(cell: Make) -> None:
    other = cell(0.9)
    config = other.config.with_overrides({"env.horizon": 25}, "test")
    assert not study_of([cell(0.8), dataclasses.replace(other, label="longer", config=config)]).comparable
    # In roll-outs alone they may differ: that is a question of its own.
    config = other.config.with_overrides({"evaluation.env": {"horizon": 30}}, "test")
    assert study_of([cell(0.8), dataclasses.replace(other, label="longer", config=config)]).comparable


def test_a_chosen_reference_stands_beside_the_best_ad(cell: Make) -> None:
    cells = [cell(0.6, kind="ad", window=80), cell(0.7, depth=1), cell(0.8, depth=3)]
    study = study_of(cells, reference="CompressedAD, depth 1, 16 latents")
    assert [d.reference.label for d in all_differences(study)] == ["AD, window 80"] * 2 + [
        "CompressedAD, depth 1, 16 latents"
    ] * 2
    with pytest.raises(
        UsageError, match=r"report.reference\) is no model of s; choose one of: AD, window 80; CompressedAD"
    ):
        study_of(cells, reference="AD, window 8")

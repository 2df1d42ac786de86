"""One task, one seed, one roll-out, ties: nothing stands in for what is not there, and sentences say so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from cad.reports import CellResult, Study, make_study
from cad.reports.data import all_differences, differing_keys, interval_note, own_settings
from cad.reports.output.summary import qualification
from cad.reports.plotting import drawing_style, keeping_figures
from cad.reports.questions import (
    cost,
    depth_and_latents,
    failures,
    learning,
    long_horizon,
    references,
    training,
)
from cad.schema import Config

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult]) -> Study:
    return make_study("s", "", "", cells, None)


def flat(cell: CellResult, shares: float | list[float]) -> CellResult:
    """The cell with the same share of the optimum in every episode, for all tasks or for each."""
    level = np.broadcast_to(np.array(shares, dtype=float).reshape(-1, 1, 1), cell.returns.shape)
    return dataclasses.replace(cell, returns=level * np.array(cell.optimal)[:, None, None])


def test_roll_outs_do_not_stand_in_for_tasks(cell: Make) -> None:
    """Five seeds, one task, four roll-outs: five pairs of seed and task, not twenty, and no p-value."""
    one = {"shape": (1, 4, 50)}
    cells = [
        cell(seed=seed, **one, **kind) for seed in range(5) for kind in ({}, {"kind": "ad", "window": 80})
    ]
    study = study_of(cells)
    best = study.lead
    assert best is not None and best.returns.scores.shape == (5, 1)
    assert math.isnan(best.returns.score_interval[0])
    assert all(d.p_holm is None and math.isnan(d.low) for d in all_differences(study))
    assert learning._profile_sentence(study).count(" of 5 for ") == 2
    why = "one task does not show how tasks vary: no interval is given, no significance is claimed"
    assert why in references.sentence(study) and why[1:] in qualification(study)
    assert "nan" not in references.sentence(study)
    assert "there are no bands" in learning._band_words(study)
    assert failures._goals_sentence(study).endswith(" on the only goal, (4, 2).")


def test_one_roll_out_of_one_task_still_makes_a_paragraph(cell: Make) -> None:
    cells = [cell(seed=seed, shape=(1, 1, 50)) for seed in range(5)]
    assert qualification(study_of(cells)) == (
        "One task does not show how tasks vary: no interval is given, no significance is claimed."
    )
    assert interval_note(math.nan, math.nan, 1) == ""


def test_the_pointer_says_where_an_interval_rests_on_one_seed(cell: Make) -> None:
    assert interval_note(0.4, 0.5, 3) == "(95%: 0.400 to 0.500)"
    for n_seeds, said in ((1, True), (2, False)):
        cells = [cell(depth=depth, seed=seed) for seed in range(n_seeds) for depth in (1, 3)]
        study = study_of([*cells, *(cell(depth=depth, n_latent=4) for depth in (1, 3) if n_seeds == 1)])
        draws = (*depth_and_latents.SECTION.figures, learning.SECTION.figures[0])
        drawings = [drawing for draw in draws if (drawing := draw(study)) is not None]
        assert len(drawings) == 3
        for drawing in drawings:
            assert ("(95% over tasks, one seed: " in str(drawing.screen.points)) == said, drawing.name
    paired = references.SECTION.figures[0](study_of([cell(), cell(kind="ad", window=80)]))
    assert paired is not None and "95% interval over tasks, one seed" in str(paired.screen.points)


def test_a_tie_is_neither_above_nor_below(cell: Make) -> None:
    cells = [flat(cell(**kind, seed=seed), 0.9) for seed in range(2) for kind in ({}, {"kind": "ad"})]
    text = references.sentence(study_of(cells))
    assert "depth 3, 16 latents is as high, to three digits" in text
    assert "in 0 of 2 seeds above and in 2 equal; intervals are over tasks alone" in text
    assert "0.000 " not in text.replace("+0.000", "")
    two = [flat(cell(n_latent=n), 0.9) for n in (4, 16)]
    assert "1 other of its kind reached the very same" in qualification(study_of(two))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([0.5] + [0.9] * 7, "is lowest on goal (4, 2), with 0.50; 1 of 8 goals is below 0.6."),
        ([0.5, 0.5] + [0.9] * 6, "is lowest on goal (4, 2) and 1 more, with 0.50; 2 of 8 goals are below"),
        ([0.9] * 8, "reaches 0.90 on each of 8 goals."),
    ],
)
def test_the_lowest_goal_is_one_only_where_it_is(cell: Make, shares: list[float], said: str) -> None:
    assert said in failures._goals_sentence(study_of([flat(cell(), shares)]))


def test_small_fractions_are_counts(cell: Make) -> None:
    study = study_of([flat(cell(), [0.5] + [0.95] * 7)])
    assert learning._profile_sentence(study).startswith(
        "Pairs of seed and task that reach 90% of the optimum: 7 of 8 for "
    )


@pytest.mark.parametrize(("n_seeds", "caveat"), [(1, "1 training seed"), (3, "3 training seeds"), (4, None)])
def test_an_effect_of_depth_says_on_how_many_seeds_it_rests(
    cell: Make, n_seeds: int, caveat: str | None
) -> None:
    cells = [
        flat(cell(depth=depth, seed=seed), [level + 0.01 * task for task in range(8)])
        for seed in range(n_seeds)
        for depth, level in ((1, 0.80), (3, 0.81))
    ]
    (sentence,) = depth_and_latents.sentence(study_of(cells)).split(". ")
    assert "paired, depth 3 minus 1 is +0.010 [+0.010, +0.010]" in sentence
    if caveat is None:
        assert sentence.endswith("+0.010].")
    else:
        end = f"; intervals are over tasks alone, with {caveat}: no significance is claimed."
        assert sentence.endswith(end)


def test_validation_says_which_episodes_it_covers(cell: Make) -> None:
    short = cell()
    assert (short.config.train.validation_episodes, short.config.evaluation.n_episodes) == (20, 50)
    text = training._validated(study_of([short]))
    assert text == (
        "; return on the validation tasks, which are split off the training tasks, in episodes 11 to 20 of "
        "a roll-out (evaluations have 50, so that more is learned by their end)"
    )
    settings = short.config.model_dump()
    settings["train"]["validate_every"] = 0
    never = dataclasses.replace(short, config=Config.model_validate(settings))
    assert training._validated(study_of([never])) == ""


def test_settings_that_differ_are_those_that_a_model_uses(cell: Make) -> None:
    """AD has no latents and no depths to weigh: its defaults of both are no settings of it."""
    ad, narrow, wide = (cell(kind="ad").config, cell(n_latent=4).config, cell(n_latent=16).config)
    weighed = wide.model_dump()
    weighed["train"]["depth_weights"] = [1.0, 1.0, 1.0, 2.0]
    heavy = Config.model_validate(weighed)
    assert "train.depth_weights" not in own_settings(ad) and "train.depth_weights" in own_settings(heavy)
    assert "model.n_latent" not in own_settings(ad)
    assert not any(key.startswith("pretrain.") for key in own_settings(ad))
    assert differing_keys([ad, heavy]) == ["model.kind"]
    assert differing_keys([ad, narrow, wide]) == ["model.kind", "model.n_latent"]
    assert differing_keys([wide, heavy]) == ["train.depth_weights"]


@pytest.mark.parametrize("episodes", [1, 2, 4, 10, 50])
def test_there_is_no_episode_two_and_a_half(episodes: int, cell: Make) -> None:
    kinds = [{"kind": "ad", "window": 80}, {"depth": 1}, {}]
    steps = np.broadcast_to(np.arange(20, 20 * episodes + 1, 20, dtype=np.int32), (8, 4, episodes))
    known = {"compression_steps": steps, "chosen": np.zeros(steps.shape, dtype=bool)}
    study = study_of([cell(shape=(8, 4, episodes), **known, **kind) for kind in kinds])
    with drawing_style(), keeping_figures() as kept:
        for question in (failures, learning, long_horizon, training):
            for draw in question.SECTION.figures:
                draw(study)
    axes = [ax for figure in kept.values() for ax in figure.axes if ax.get_visible()]
    names = ("episode in context", "update")
    counted = [ax for ax in axes if ax.get_xlabel() in names]
    assert len(counted) >= 2
    for ax in counted:
        ticks = [tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]]
        assert ticks and np.allclose(ticks, np.round(ticks)), (ax.get_xlabel(), ticks)


def test_alike_returns_stand_at_alike_heights(cell: Make) -> None:
    for shares, least in (([0.70, 0.71], 0.2), ([0.1, 0.9], 0.8)):
        kinds = ({"kind": "ad", "window": 80}, {})
        cells = [flat(cell(**kind), share) for kind, share in zip(kinds, shares, strict=True)]
        with drawing_style(), keeping_figures() as kept:
            cost.SECTION.figures[0](study_of(cells))
        low, high = kept["cost"].axes[0].get_ylim()
        assert 0 <= low < min(shares) and max(shares) < high and least - 1e-9 <= high - low < least + 0.3


def test_roll_outs_that_training_saw_whole_are_not_called_more(cell: Make) -> None:
    """Compressed twice, trained to three: each count has a tick, and no episode panel is spoken of."""
    steps = np.broadcast_to(np.array([40, 80], dtype=np.int32), (8, 4, 2))
    known = {"compression_steps": steps, "chosen": np.zeros(steps.shape, dtype=bool)}
    study = study_of([cell(shape=(8, 4, 6), **known)])
    drawing = long_horizon.SECTION.figures[0](study)
    assert drawing is not None and drawing.title == "Return by number of compressions"
    assert drawing.tables == ("return_by_compressions",)
    with drawing_style(), keeping_figures() as kept:
        long_horizon.SECTION.figures[0](study)
    assert kept["lasting"].axes[0].get_xticks().tolist() == [0, 1, 2]
    deep = long_horizon.SECTION.figures[0](study_of([cell(shape=(8, 4, 6), depth=1, **known)]))
    assert deep is not None and deep.title == "Beyond what training saw"


def test_the_caption_of_trainings_speaks_of_validations_that_there_were(cell: Make) -> None:
    one = cell()
    without = one.config.with_overrides({"train.validate_every": 0}, "test")
    for config, said in ((one.config, True), (without, False)):
        drawing = training.SECTION.figures[0](study_of([dataclasses.replace(one, config=config)]))
        assert drawing is not None and ("validation" in drawing.caption) == said

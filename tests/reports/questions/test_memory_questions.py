"""Sections on memory: knocked out, of equal state, and by the bits to remember."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cad.reports import write_report
from cad.reports.data import (
    capacity_curves,
    capacity_tables,
    describe,
    equal_state,
    equal_state_tables,
    knock_out_tables,
    make_study,
    reach_tables,
    reaches,
)
from cad.reports.plotting import drawing_style, keeping_figures
from cad.reports.questions import capacity as capacity_question
from cad.reports.questions import equal_state as equal_state_question
from cad.reports.questions import knock_out as knock_out_question
from cad.reports.questions import reach as reach_question
from cad.schema import Config, ReportConfig

SHAPE = (8, 8, 50)


def study(cells):
    return make_study("r", "", "", cells, None)


def levels(cell, by_episode, **changes):
    """A cell that returns a share of each optimum, by episode or in all of them."""
    made = cell(**changes)
    shares = np.broadcast_to(np.asarray(by_episode, dtype=float), SHAPE[2:])
    return cell(returns=np.array(made.optimal)[:, None, None] * np.broadcast_to(shares, SHAPE), **changes)


def knocked(cell, after, how="other", **changes):
    """0.8 of the optimum until episode 25, then ``after`` for ten episodes, then 0.8."""
    shares = np.full(50, 0.8)
    shares[25:35] = after
    made = cell(**changes)
    settings = {"evaluation.knock_out": how}
    return levels(
        cell, shares, label=f"{made.label}, replaced by {how}",
        config=made.config.with_overrides(settings, "test"), **changes,
    )  # fmt: skip


def test_a_knock_out_is_paired_with_the_intact_model(cell):
    cells = [
        levels(cell, 0.8), levels(cell, 0.8, seed=1), knocked(cell, 0.3), knocked(cell, 0.5, seed=1),
        knocked(cell, 0.6, "noise"), levels(cell, 0.4, kind="ad", window=80),
    ]  # fmt: skip
    made = study(cells)
    table = knock_out_tables(made)["knock_out"]
    by_how = {row[2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    other = by_how["other"]
    assert (other["episode"], other["episodes_after"], other["n_seeds"]) == (26, 10, 2)
    assert other["intact_before"] == pytest.approx(0.8)
    assert other["replaced_after"] == pytest.approx(0.4)
    assert other["difference"] == pytest.approx(-0.4)
    assert other["replaced_last"] == pytest.approx(0.8)
    assert by_how["noise"]["difference"] == pytest.approx(-0.2)
    assert by_how["noise"]["n_seeds"] == 1
    text = knock_out_question.sentence(made)
    assert "returns 0.40 of the optimum over episodes 26 to 35, intact 0.80; paired, -0.400" in text


@pytest.mark.parametrize(("episodes", "before"), [(25, None), (20, 0.8)])
def test_a_knock_out_after_a_demonstration_is_paired_with_that(episodes, before, cell):
    """With the model that was shown as much, and by the episodes that both act in themselves."""
    watched = {"evaluation.demonstrated_episodes": episodes}
    intact, replaced = (
        dataclasses.replace(
            each, label=f"{each.label}, shown", config=each.config.with_overrides(watched, "test")
        )
        for each in (levels(cell, 0.8), knocked(cell, 0.3))
    )
    for each in (intact, replaced):
        each.returns[:, :, :episodes] = np.array(each.optimal)[:, None, None]
    made = study([levels(cell, 0.5), intact, replaced])
    (row,) = knock_out_tables(made)["knock_out"].rows
    row = dict(zip(knock_out_tables(made)["knock_out"].columns, row, strict=True))
    assert (row["label"], row["intact"]) == (replaced.label, intact.label)
    assert row["intact_before"] == (before and pytest.approx(before))
    assert (row["intact_after"], row["replaced_after"]) == pytest.approx((0.8, 0.3))
    with drawing_style():
        figure = knock_out_question.SECTION.figures[0](made)
    assert figure.name == "knock-out"


def test_what_was_knocked_out_is_compared_with_nothing_else(cell):
    # It returns more than the intact one in the end, and is no best model all the same.
    better = knocked(cell, 0.3)
    better = cell(
        label=better.label, config=better.config, returns=np.broadcast_to(8.0, SHAPE), optimal=(8.0,) * 8
    )
    made = study([levels(cell, 0.5, optimal=(8.0,) * 8), better])
    assert made.best(ad=False).score == pytest.approx(0.5)
    assert [model.label for model in made.scored] == [made.models[0].label]


def corridors(cell, arm, shares, **changes):
    """A training of corridor 9, evaluated there and in longer ones."""
    cells = []
    for corridor, share in shares.items():
        made = cell(**changes)
        settings = {"env": {"name": "t_maze", "n_heldout": 8}, "source": {"kind": "learner"}}
        label = f"{arm}, as trained"
        if corridor != 9:
            settings["evaluation.env"] = {"corridor": corridor}
            label = f"{arm}, corridor {corridor:,}"
        config = made.config.with_overrides(settings, "test")
        cells.append(levels(cell, share, arm=arm, label=label, config=config, **changes))
    return cells


def test_reach_follows_one_training_to_where_its_return_falls(cell):
    made = study(
        [
            *corridors(cell, "far", {9: 1.0, 1000: 0.97, 100_000: 0.9}),
            *corridors(cell, "near", {1000: 0.5, 9: 0.94}, kind="ad", window=80),
        ]
    )
    far, near = reaches(made)
    assert (far.name, far.setting, far.trained_at) == ("far", "corridor", 9)
    assert [value for value, _ in near.points] == [9, 1000]
    assert (far.holds_to(0.95), far.holds_to(0.9), near.holds_to(0.95)) == (1000, 100_000, None)
    text = reach_question.sentence(made)
    assert "far: up to 1,000 (0.90 at 100,000); near: below it everywhere (0.94 at 9)" in text
    assert "(training had 9)" in text
    rows = [
        dict(zip(reach_tables(made)["reach"].columns, row, strict=True))
        for row in reach_tables(made)["reach"].rows
    ]
    assert [(row["model"], row["value"]) for row in rows][:3] == [("far", 9), ("far", 1000), ("far", 100_000)]
    assert rows[2]["lowest_task"] == pytest.approx(0.9)
    with keeping_figures() as kept, drawing_style():
        reach_question.SECTION.figures[0](made)
    labels = [tick.get_text() for tick in kept["reach"].axes[0].get_xticklabels()]
    assert labels == ["9", "1,000", "100,000"]  # no formulas
    # Other sections compare models where they were trained.
    assert [model.label for model in made.scored] == ["far, as trained", "near, as trained"]
    assert reaches(study(equal_cells(cell))) == []


def equal_cells(cell):
    return [
        levels(cell, 0.9, state_bytes=100_000),
        levels(cell, 0.3, kind="ad", window=56, state_bytes=99_000),
        levels(cell, 0.5, kind="ad", window=320, state_bytes=600_000),
        levels(cell, 0.6, depth=1, state_bytes=100_000),
    ]


def test_models_of_other_kinds_and_equal_state_are_set_beside_the_best(cell):
    made = study(equal_cells(cell))
    assert [model.label for model in equal_state(made).others] == ["AD, window 56"]
    (lead, other) = (
        dict(zip(equal_state_tables(made)["equal_state"].columns, row, strict=True))
        for row in equal_state_tables(made)["equal_state"].rows
    )
    assert lead["share_of_state"] == 1
    assert other["share_of_state"] == pytest.approx(0.99)
    assert other["difference_from_lead"] == pytest.approx(-0.6)
    text = equal_state_question.sentence(made)
    assert "returns 0.90 of the optimum with a state of 97.7 KiB" in text
    assert "AD, window 56 0.30 (paired, -0.600" in text


def test_a_recurrent_net_that_is_better_is_set_beside_the_best_compressed_model(cell):
    """It is not taken for the compressed one, which would leave no one to compare."""
    config = Config.model_validate({"model": {"kind": "linear_attention"}})
    recurrent = levels(
        cell, 0.95, label="linear attention", arm="linear attention", config=config, state_bytes=99_000,
        compressions=np.zeros(SHAPE[:2], dtype=int), metrics=None,
    )  # fmt: skip
    made = study([*equal_cells(cell), recurrent])
    assert made.lead.label == "linear attention" and describe(made.lead) == "linear attention"
    group = equal_state(made)
    assert group.lead.facts.depth is not None
    assert [model.label for model in group.others] == ["linear attention", "AD, window 56"]
    assert group.differences["linear attention"].mean == pytest.approx(0.05)


def loads(cell):
    """1 and 4 cues; few latents break at 4."""
    cells = []
    for n_cues in (1, 4):
        for n_latent, level in ((2, 0.95 if n_cues == 1 else 0.4), (16, 0.95)):
            made = cell(n_latent=n_latent)
            tasks = {"env": {"name": "cued_darkroom", "n_cues": n_cues, "n_tasks": 40, "n_heldout": 8}}
            config = made.config.with_overrides({**tasks, "source": {"kind": "learner"}}, "test")
            label = f"CompressedAD, n_cues {n_cues}, {n_latent} latents"
            ids = tuple(range(10 * n_cues, 10 * n_cues + 8))
            cells.append(
                levels(
                    cell, level, n_latent=n_latent, label=label, config=config, task_ids=ids,
                    state_bytes=1000 * n_latent,
                )
            )  # fmt: skip
    return cells


def test_a_curve_joins_models_that_differ_in_their_tasks_only(cell):
    made = study(loads(cell))
    assert not made.comparable  # their tasks are others
    few, many = capacity_curves(made)
    assert [few.name, many.name] == ["CompressedAD, 2 latents", "CompressedAD, 16 latents"]
    assert [point.bits for point in few.points] == [6.34, 25.359]
    assert (few.most_bits(0.9), many.most_bits(0.9), few.most_bits(0.99)) == (6.34, 25.359, None)
    assert few.state_bytes == 2000
    rows = capacity_tables(made)["capacity"].rows
    assert [row[4] for row in rows] == pytest.approx([0.95, 0.4, 0.95, 0.95])
    text = capacity_question.sentence(made)
    assert "CompressedAD, 2 latents: up to 6.34 bits (0.40 at 25.36)" in text


def test_arms_of_a_curve_may_be_named_by_their_tasks(cell):
    cells = [
        dataclasses.replace(made, arm=f"CompressedAD, {made.config.env.n_cues} cues") for made in loads(cell)
    ]
    names = [curve.name for curve in capacity_curves(study(cells))]
    assert names == ["CompressedAD, 2 latents", "CompressedAD, 16 latents"]


def test_all_of_them_are_in_the_report(cell, origin, tmp_path):
    cells = [*equal_cells(cell), knocked(cell, 0.3)]
    write_report("r", ReportConfig(), cells, None, origin, tmp_path / "a", figures=False)
    write_report("r", ReportConfig(), loads(cell), None, origin, tmp_path / "b", figures=False)
    written = json.loads((tmp_path / "a/report.json").read_text())
    tables = written["tables"]
    assert {"knock_out", "equal_state"} <= tables.keys()
    assert "capacity" not in tables
    assert {figure["name"] for figure in written["figures"]} >= {"knock-out", "equal-state"}
    page = (tmp_path / "b/report.html").read_text()
    assert "How much can be remembered?" in page
    assert "2 latents: up to 6.34 bits" in page

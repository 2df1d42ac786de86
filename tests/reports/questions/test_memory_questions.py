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
    assert (far.name, far.setting, far.trained_at) == ("far", "corridor", "9")
    assert [point.value for point in near.points] == [9, 1000]
    assert (far.holds_to(0.95), far.holds_to(0.9), near.holds_to(0.95)) == (2, 3, 0)
    text = reach_question.sentence(made)
    assert "far: up to 1,000 (0.90 at 100,000); near: not even at the smallest (0.94 at 9)" in text
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


def test_a_training_of_mixed_corridors_is_no_corridor_of_the_longest(cell):
    """Nor does it hide the one that was evaluated there."""
    cells = corridors(cell, "far", {9: 1.0, 1000: 0.97})
    alone = corridors(cell, "far", {30: 0.5})[0]
    shortest = {"env.shortest": 2}
    at_nine = dataclasses.replace(
        alone,
        label="far, corridor 9",
        config=alone.config.with_overrides({"evaluation.env": {"corridor": 9}}, "test"),
    )
    made = study(
        [
            dataclasses.replace(each, config=each.config.with_overrides(shortest, "test"))
            for each in (at_nine, *cells)
        ]
    )
    (reach,) = reaches(made)
    assert [(point.value, point.mixed, point.model.score) for point in reach.points] == [
        (9, True, pytest.approx(1.0)), (9, False, pytest.approx(0.5)), (1000, False, pytest.approx(0.97)),
    ]  # fmt: skip
    assert "(training had up to 9): far: as trained alone (0.50 at 9)" in reach_question.sentence(made)
    with drawing_style():
        assert "as trained, with lower values" in reach_question.SECTION.figures[0](made).caption


def test_horizons_are_a_setting_too_and_each_setting_has_curves_of_its_own(cell):
    base = cell()
    assert base.config.env.horizon is None
    cells = [levels(cell, 0.9), *corridors(cell, "far", {9: 1.0, 100: 0.97})]
    for label, settings, share in (("CompressedAD, horizon 40", {"evaluation.env": {"horizon": 40}}, 0.8),):
        config = base.config.with_overrides(settings, "test")
        cells.append(levels(cell, share, label=label, config=config))
    far = corridors(cell, "far", {9: 0.7})[0]
    both = far.config.with_overrides({"evaluation.env": {"horizon": 30}}, "test")
    cells.append(dataclasses.replace(far, label="far, horizon 30", config=both))
    made = study(cells)
    curves = {(r.setting, r.points[-1].value): [p.value for p in r.points] for r in reaches(made)}
    assert curves == {("horizon", 40): [20, 40], ("corridor", 100): [9, 100], ("horizon", 30): [10, 30]}
    text = reach_question.sentence(made)
    assert "by horizon (training had 20 and 10)" in text and "by corridor (training had 9)" in text
    with keeping_figures() as kept, drawing_style():
        reach_question.SECTION.figures[0](made)
    assert "horizon" in kept["reach"].axes[0].get_xlabel()
    assert len(kept["reach"].axes[0].get_legend_handles_labels()[0]) == 2


def test_a_curve_is_named_without_the_grids_own_part_alone(cell):
    cells = corridors(cell, "GRU, corridor 100", {9: 1.0, 10: 0.99, 1000: 0.97})
    assert [reach.name for reach in reaches(study(cells))] == ["GRU, corridor 100"]


def test_what_is_evaluated_as_it_was_trained_is_no_other_point(cell):
    base = levels(cell, 0.9)
    again = base.config.with_overrides({"evaluation.env": {"horizon": 20}}, "test")
    assert reaches(study([base, dataclasses.replace(base, label="again", config=again)])) == []
    # Corridors between 9 and 9 steps are all as long.
    cells = [
        dataclasses.replace(each, config=each.config.with_overrides({"env.shortest": 9}, "test"))
        for each in corridors(cell, "far", {9: 1.0, 100: 0.97})
    ]
    (reach,) = reaches(study(cells))
    assert [point.mixed for point in reach.points] == [False, False] and reach.trained_at == "9"


def test_knock_outs_that_share_no_seed_are_not_drawn_together(cell):
    cells = [levels(cell, 0.8), levels(cell, 0.8, seed=1), knocked(cell, 0.3)]
    cells.append(knocked(cell, 0.5, "noise", seed=1))
    with drawing_style():
        caption = knock_out_question.SECTION.figures[0](study(cells)).caption
    assert "1 more share no seed with the first; the CSV file has them." in caption
    assert len(knock_out_tables(study(cells))["knock_out"].rows) == 2


def test_what_falls_at_the_smallest_alone_is_not_below_everywhere(cell):
    text = reach_question.sentence(study(corridors(cell, "far", {9: 0.94, 100: 0.99, 1000: 0.97})))
    assert "far: not even at the smallest (0.94 at 9)" in text


def test_an_intact_roll_out_has_no_episode_of_a_knock_out(cell):
    """The key may stand in ``base``, where it means nothing for those that are not knocked out."""
    named = {"evaluation.knock_out_episode": 26 + 5}
    cells = [levels(cell, 0.8), knocked(cell, 0.3)]
    cells = [dataclasses.replace(c, config=c.config.with_overrides(named, "test")) for c in cells]
    (row,) = knock_out_tables(study(cells))["knock_out"].rows
    assert row[3] == 31


def test_a_knock_out_is_paired_within_its_experiment(cell):
    cells = [
        dataclasses.replace(made, label=f"{experiment}: {made.label}", experiment=experiment)
        for experiment, level in (("A", 0.8), ("B", 0.5))
        for made in (levels(cell, level), knocked(cell, level / 2))
    ]
    rows = knock_out_tables(study(cells))["knock_out"].rows
    assert [(row[1][0], round(row[8], 3)) for row in rows] == [("A", -0.4), ("B", -0.25)]


def test_curves_of_a_knock_out_are_on_the_seeds_that_both_have(cell):
    cells = [levels(cell, 0.2), levels(cell, 0.8, seed=1), knocked(cell, 0.8, seed=1)]
    with keeping_figures() as kept, drawing_style():
        knock_out_question.SECTION.figures[0](study(cells))
    for line in kept["knock-out"].axes[0].lines[:2]:
        assert line.get_ydata() == pytest.approx(0.8)


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


def renamed(cells, name, **settings):
    """The same cells under an arm's name, with other settings."""
    return [
        dataclasses.replace(
            made, arm=name, label=f"{name}, {made.label}", config=made.config.with_overrides(settings, "test")
        )
        for made in cells
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"train.n_updates": 5000},
        {"evaluation.greedy": True},
        {"env.horizon": 25},
    ],
)
def test_models_of_one_size_that_differ_are_on_curves_of_their_own(settings, cell):
    """Neither hides the other, whatever they differ in."""
    wide = [made for made in loads(cell) if made.config.model.n_latent == 16]
    low = [dataclasses.replace(made, returns=made.returns / 2) for made in renamed(wide, "other", **settings)]
    curves = capacity_curves(study([*renamed(wide, "one"), *low]))
    assert [[point.model.score for point in curve.points] for curve in curves] == [
        pytest.approx([0.95, 0.95]), pytest.approx([0.475, 0.475]),
    ]  # fmt: skip
    key = next(iter(settings)).rpartition(".")[2]
    assert [curve.name.split(",")[0] for curve in curves] == ["one", "other"]
    assert all(key in curve.name for curve in curves)
    # A size that one of them alone has a training for joins nothing.
    made = study([*renamed(wide, "one"), low[1]])
    (curve,) = capacity_curves(made)
    assert [point.model.score for point in curve.points] == pytest.approx([0.95, 0.95])
    with drawing_style():
        caption = capacity_question.SECTION.figures[0](made).caption
    assert "On no curve: 1 model of one size alone." in caption


def of_experiment(made, name, **changes):
    """A cell as ``--compare`` has it."""
    return dataclasses.replace(
        made, label=f"{name}: {made.label}", arm=f"{name}: {made.arm}", experiment=name, **changes
    )


def test_experiments_have_curves_of_their_own(cell):
    wide = [made for made in loads(cell) if made.config.model.n_latent == 16]
    cells = [of_experiment(made, "A") for made in wide]
    cells += [of_experiment(made, "B", returns=made.returns / 2) for made in wide]
    curves = capacity_curves(study(cells))
    assert [(curve.name, curve.points[0].model.score) for curve in curves] == [
        ("A: CompressedAD", pytest.approx(0.95)), ("B: CompressedAD", pytest.approx(0.475)),
    ]  # fmt: skip
    # Experiments of one size each make one.
    (curve,) = capacity_curves(study([of_experiment(wide[0], "one"), of_experiment(wide[1], "four")]))
    assert (curve.name, len(curve.points)) == ("CompressedAD", 2)


def test_a_second_model_of_one_size_takes_none_off_the_curve(cell):
    """Rates go with the size, as in knee.yaml; at the largest there are two."""
    cells = []
    for n_cues, rate, level in (
        (1, 2e-3, 1.0),
        (2, 2e-3, 0.98),
        (4, 1e-3, 0.9),
        (8, 5e-4, 0.8),
        (8, 2e-3, 0.3),
    ):
        made = cell()
        tasks = {"env": {"name": "cued_darkroom", "n_cues": n_cues, "n_tasks": 40, "n_heldout": 8}}
        more = {**tasks, "source": {"kind": "learner"}, "train.learning_rate": rate}
        config = made.config.with_overrides(more, "test")
        ids = tuple(range(10 * n_cues, 10 * n_cues + 8))
        label = f"CompressedAD, {n_cues} cues, {rate}"
        cells.append(levels(cell, level, label=label, config=config, task_ids=ids))
    curves = capacity_curves(study(cells))
    assert [[round(point.model.score, 2) for point in curve.points] for curve in curves] == [
        [0.9, 0.8], [1.0, 0.98, 0.9, 0.3],
    ]  # fmt: skip
    assert ["learning_rate 0.0005" in curves[0].name, "learning_rate 0.002" in curves[1].name] == [True] * 2
    drawn = {id(point.model) for curve in curves for point in curve.points}
    assert len(drawn) == 5
    with drawing_style():
        assert "On no curve" not in capacity_question.SECTION.figures[0](study(cells)).caption


def test_a_curve_is_not_named_by_one_of_its_sizes(cell):
    cells = [
        dataclasses.replace(made, arm=f"{made.config.env.n_cues} cues, CompressedAD") for made in loads(cell)
    ]
    names = [curve.name for curve in capacity_curves(study(cells))]
    assert names == ["CompressedAD, 2 latents", "CompressedAD, 16 latents"]


def test_what_breaks_at_the_smallest_alone_is_not_nowhere(cell):
    cells = [made for made in loads(cell) if made.config.model.n_latent == 16]
    cells[0] = dataclasses.replace(cells[0], returns=cells[0].returns * 0.8)
    assert "not even at 6.34 bits, 0.76 (0.95 at 25.36)" in capacity_question.sentence(study(cells))


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

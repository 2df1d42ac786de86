"""What is compared with what: pairs, missing cells, unequal rosters, experiments; and what is claimed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy import stats

from cad.config.schema import ReportConfig
from cad.errors import CadError, UsageError
from cad.evaluation.results import save_results
from cad.evaluation.rollout import RolloutResult
from cad.reports import CellResult, Provenance, write_report
from cad.reports.aggregate import Study, make_study
from cad.reports.cost_figures import costs, front
from cad.reports.differences import all_differences
from cad.reports.differences import sentence as differences_sentence
from cad.reports.export import export_table
from cad.reports.finding import first_found
from cad.reports.lasting import sentence as lasting_sentence
from cad.reports.marginals import sentence as marginals_sentence
from cad.reports.page import report_json
from cad.reports.results import TrainingPart
from cad.reports.side_by_side import sentence as side_by_side_sentence
from cad.reports.tables import data_tables
from cad.reports.wording import headline, notices

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
    (found,) = all_differences(study_of(planted(cell, 0.12, 6)))
    assert found.low < 0.12 < found.high and found.claimed and found.p_holm is not None
    (few,) = all_differences(study_of(planted(cell, 0.12, 3)))
    assert few.low < few.mean < few.high and few.p_holm is None and not few.claimed
    assert "no significance is claimed" in differences_sentence(study_of(planted(cell, 0.12, 3)))
    none = study_of(planted(cell, 0.0, 6))
    assert not all_differences(none)[0].claimed
    assert "1 cannot be told from it" in differences_sentence(none)


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
    found = [d for d in all_differences(study) if d.group.label.startswith("CompressedAD")]
    assert sorted(seed for d in found for seed in d.seeds) == [0, 2]
    for d in found:
        for seed, stated in zip(d.seeds, d.by_seed, strict=True):
            ad, ours = (c for c in study.cells if c.result.config.seed == seed)
            assert stated == pytest.approx(ours.normalised_last10 - ad.normalised_last10)
    assert any("out of memory" in line for line in notices(study))


def test_a_single_seed_is_no_headline_beside_three(cell: Make) -> None:
    cells = [*planted(cell, 0.1, 3), cell(0.99, depth=1)]
    study = study_of(cells)
    high, low = (
        next(g for g in study.groups if g.label == label) for label in (cells[-1].label, cells[1].label)
    )
    assert high.score > low.score  # type: ignore[operator]
    assert study.best(ad=False) is low
    assert "depth 3, 16 latents" in headline(study)
    assert f"same seeds and tasks, {low.label} is above it" in differences_sentence(study)


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


def test_unequal_rosters_are_apart_refused_or_cut(cell: Make) -> None:
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


def test_marginals_use_the_seeds_of_a_complete_grid(cell: Make) -> None:
    cells = [
        cell(0.5 + 0.1 * depth + (0.01 if n_latent == 16 else 0), depth=depth, n_latent=n_latent, seed=seed)
        for depth in (1, 3) for n_latent in (4, 16) for seed in (0, 1)
    ]  # fmt: skip
    rows = {(axis, value): (mean, low, high, seeds) for _, axis, value, mean, low, high, seeds, _ in
            data_tables(study_of(cells))["marginals"].rows}  # fmt: skip
    scores = {(g.depth, g.n_latent): g.score for g in study_of(cells).groups}
    assert rows["depth", 3][0] == pytest.approx((scores[3, 4] + scores[3, 16]) / 2)
    assert rows["latents", 4][0] == pytest.approx((scores[1, 4] + scores[3, 4]) / 2)
    assert all(low < mean < high and seeds == 2 for mean, low, high, seeds in rows.values())
    cells[-1] = dataclasses.replace(cells[-1], status="missing", returns=None)
    assert "over the one seed that every cell of the grid has" in marginals_sentence(study_of(cells))
    assert "grid has gaps" in marginals_sentence(study_of(cells[2:]))


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
    state, training, speed = costs(study)
    assert [[g.depth for g in front(study, cost)] for cost in (state, training, speed)] == [
        [2, 1], [3, 2, 1], [2, 1]
    ]  # fmt: skip
    assert training.text == "training, core-minutes"
    assert study.groups[0].mean(training.of) == pytest.approx(600 / 2 * 2 / 60 + 600 / 60)
    row = dict(zip(data_tables(study)["cost"].columns, data_tables(study)["cost"].rows[0], strict=True))
    assert (row["updates"], row["supervised_actions"], row["core_minutes"]) == (2000, 4000, 20.0)
    unknown = cell(parts=(*part(60), TrainingPart("training", None, None, None, 1)))
    assert (unknown.core_minutes, unknown.updates, unknown.supervised_actions) == (None, None, None)


def long_cell(cell: Make, **changes: Any) -> CellResult:
    """120 episodes of 20 steps, compressed every 40 steps; the return is the number of compressions / 100."""
    compression_steps = np.broadcast_to(np.arange(40, 2400, 40, dtype=np.int32), (8, 2, 59))
    returns = np.minimum(np.arange(120) // 2, 59) / 100 * np.ones((8, 2, 1))
    one = cell(
        shape=(8, 2, 120),
        compression_steps=compression_steps,
        chosen=np.zeros(compression_steps.shape, dtype=bool),
        **changes,
    )
    return dataclasses.replace(one, returns=returns * np.array(one.optimal)[:, None, None])


def test_return_by_compressions_and_beyond_the_history(cell: Make) -> None:
    study = study_of([long_cell(cell)])
    points = study.cells[0].by_compressions
    assert [k for k, _, _ in points] == list(range(60))
    assert [value for _, value, _ in points] == pytest.approx([k / 100 for k in range(60)])
    assert {n for _, _, n in points} == {2 * 16}
    within = np.minimum(np.arange(40, 50) // 2, 59).mean() / 100
    assert study.cells[0].normalised_history10 == pytest.approx(within)
    text = lasting_sentence(study)
    assert f"{within:.2f} of the optimum over episodes 41 to 50, where source histories end" in text
    assert "0.57 over episodes 111 to 120" in text
    assert "compresses up to 59 times: its return is 0.03 after 3" in text
    assert study_of([cell(shape=(8, 8, 20))]).cells[0].normalised_history10 is None


def test_rollouts_that_never_found_the_goal(cell: Make) -> None:
    one = cell(0.9)
    one.returns[2, :3] = 0
    one.returns[3, 0] = 0
    one.returns[3, 0, 17] = 1
    summary = study_of([one]).cells[0]
    first = first_found(summary)
    assert np.isinf(first[2, :3]).all() and first[3, 0] == 18
    assert [task.never_found for task in summary.per_task] == [0, 0, 3 / 8, 0, 0, 0, 0, 0]


def test_experiments_side_by_side(cell: Make, tmp_path: Path, origin: Provenance) -> None:
    cells = [
        dataclasses.replace(one, label=f"{name}: {one.label}", arm=f"{name}: {one.arm}", experiment=name)
        for name, level in (("old", 0.7), ("new", 0.9))
        for one in (cell(0.6, kind="ad", window=80), cell(level))
    ]
    write_report("both", ReportConfig(), cells, None, origin, tmp_path, unequal="refuse")
    written = json.loads((tmp_path / "report.json").read_text())
    table = written["tables"]["side_by_side"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [(row["model"], row["experiment"]) for row in rows] == [
        ("AD, window 80", "old"), ("AD, window 80", "new"),
        ("CompressedAD, depth 3, 16 latents", "old"), ("CompressedAD, depth 3, 16 latents", "new"),
    ]  # fmt: skip
    assert rows[1]["difference"] == 0 and rows[0]["difference"] is None
    assert rows[3]["difference"] == pytest.approx(rows[3]["mean"] - rows[2]["mean"])
    assert (tmp_path / "figures" / "side_by_side.png").exists()
    assert written["sentences"]["side-by-side"].startswith(
        "old and new share 2 models by name; furthest apart"
    )
    assert side_by_side_sentence(study_of([cell()])) == ""


def test_table_for_a_paper(cell: Make) -> None:
    odd = "50% of {a_b} & c #1 | $x^2$"
    study = study_of([cell(0.6, kind="ad", window=80), cell(0.8, label=odd), cell(seed=1, label=odd)])
    latex = export_table(study, "latex")
    assert r"50\% of \{a\_b\} \& c \#1 \textbar{} \$x\textasciicircum{}2\$" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 3
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1
    assert r"\begin{tabular}{lrrrrrrrrr}" in latex
    markdown = export_table(study, "markdown")
    assert markdown.splitlines()[0].startswith(
        "| model | window | depth | latents | return / optimum (95% interval)"
    )
    assert "minus AD, window 80" in markdown and r"\| \$x^2\$" in markdown and "2 of 2" in markdown
    with pytest.raises(CadError, match="no result yet"):
        export_table(study_of([cell(status="missing", returns=None)]), "latex")


def test_report_equals_an_independent_computation_from_stored_returns(
    tmp_path: Path, cell: Make, origin: Provenance
) -> None:
    """Every headline number again, in plain Python, from HDF5 files; roll-outs, then tasks, then seeds."""
    cells, stored = [], {}
    for model in {"kind": "ad", "window": 80}, {"depth": 1}, {"depth": 3}:
        for seed in range(5):
            one = cell(0.6 + 0.1 * model.get("depth", 0), seed=seed, shape=(8, 3, 60), **model)
            file = tmp_path / f"{one.label}-{seed}.h5"
            save_results(
                file,
                RolloutResult(one.task_ids, one.returns.astype(np.float32), one.compressions, 20, 1, 1.0),
            )
            cells.append(one)
            stored[one.label, seed] = file
    written = json.loads(json.dumps(report_json(study_of(cells), data_tables(study_of(cells)), origin)))

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    def scores(label: str, seed: int, first: int, last: int) -> list[float]:
        """Of each task: mean over roll-outs of the mean over episodes, by the task's optimum."""
        with h5py.File(stored[label, seed]) as file:
            returns, ids = file["returns"][:].tolist(), file["task_ids"][:].tolist()
        optimum = [21 - max(1, abs(i // 9 - 4) + abs(i % 9 - 4)) for i in ids]
        return [
            mean([mean(r[first:last]) for r in task]) / o for task, o in zip(returns, optimum, strict=True)
        ]

    table = written["tables"]["models"]
    for row in (dict(zip(table["columns"], values, strict=True)) for values in table["rows"]):
        label = row["label"]
        by_seed = [scores(label, seed, 50, 60) for seed in range(5)]
        assert row["mean"] == pytest.approx(mean([mean(tasks) for tasks in by_seed]), rel=1e-12)
        pooled = sorted(value for tasks in by_seed for value in tasks)
        assert row["iqm"] == pytest.approx(mean(pooled[10:30]), rel=1e-12)
        history = [mean(scores(label, seed, 40, 50)) for seed in range(5)]
        assert row["mean_at_history_end"] == pytest.approx(mean(history), rel=1e-12)
        assert row["mean_low_95"] < row["mean"] < row["mean_high_95"]
    table = written["tables"]["differences"]
    found = [dict(zip(table["columns"], values, strict=True)) for values in table["rows"]]
    assert [d["label"] for d in found] == [f"CompressedAD, depth {k}, 16 latents" for k in (1, 3)]
    p_values = []
    for d in found:
        pairs = np.array([
            np.subtract(scores(d["label"], seed, 50, 60), scores("AD, window 80", seed, 50, 60))
            for seed in range(5)
        ])  # fmt: skip
        assert d["difference"] == pytest.approx(pairs.mean(), rel=1e-9)
        assert [float(x) for x in d["differences_by_seed"].split()] == pytest.approx(pairs.mean(axis=1))
        # The two-way layout's mean squares, written out.
        grand, tasks, seeds = pairs.mean(), pairs.mean(axis=0), pairs.mean(axis=1)
        of_tasks = 5 * sum((t - grand) ** 2 for t in tasks) / 7
        of_seeds = 8 * sum((s - grand) ** 2 for s in seeds) / 4
        rest = sum((pairs[s, t] - seeds[s] - tasks[t] + grand) ** 2 for s in range(5) for t in range(8)) / 28
        a, b = of_tasks / 40, of_seeds / 40
        variance = max(a + b - rest / 40, a, b)
        freedom = max(4, variance**2 / (a**2 / 7 + b**2 / 4))
        p_values.append(2 * stats.t.sf(abs(grand) / math.sqrt(variance), freedom))
        half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
        assert (d["high_95"] - d["low_95"]) / 2 == pytest.approx(half, rel=0.15)
    low, high = sorted(p_values)
    assert sorted(d["p_holm"] for d in found) == pytest.approx(
        sorted([min(1, 2 * low), max(high, min(1, 2 * low))])
    )
    curve = [row for row in written["tables"]["return_by_episode"]["rows"]
             if row[0] == "AD, window 80" and row[1] == "mean"]  # fmt: skip
    for _, _, episode, value, low, high in curve:
        again = mean([mean(scores("AD, window 80", seed, episode - 1, episode)) for seed in range(5)])
        assert value == pytest.approx(again, rel=1e-9) and low <= value <= high

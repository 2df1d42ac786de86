"""Numbers in report.json against an independent computation; what counts and what does not."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy import stats

from cad.errors import CadError
from cad.evaluation.results import save_results
from cad.evaluation.rollout import RolloutResult
from cad.reports import (
    CellResult,
    Provenance,
    SourceCurve,
    Study,
    make_study,
)
from cad.reports.data import (
    grid_panels,
)
from cad.reports.output.report_json import report_json
from cad.reports.output.summary import headline, notices
from cad.reports.questions import (
    data_tables,
)

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult], **how: Any) -> Study:
    return make_study("s", "", "", cells, None, **how)


@pytest.fixture
def report(origin: Provenance) -> Callable[..., dict[str, Any]]:
    """What report.json holds (that the file holds it is tested with the files), without drawing."""

    def numbers(cells: Sequence[CellResult], source: SourceCurve | None = None) -> dict[str, Any]:
        study = make_study("sample", "", "", cells, source)
        whole = report_json(study, data_tables(study), origin)
        return json.loads(json.dumps(whole, allow_nan=False))

    return numbers


def test_cell_numbers_equal_a_plain_computation(
    report: Callable[..., dict[str, Any]], quickstart: list[CellResult]
) -> None:
    written = report(quickstart)["cells"]
    assert len(written) == len(quickstart)
    for record, cell in zip(written, quickstart, strict=True):
        returns = cell.returns.tolist()
        first, last, normalised = [], [], []
        for task, rollouts in enumerate(returns):
            first.append(math.fsum(r[0] for r in rollouts) / len(rollouts))
            last.append(math.fsum(math.fsum(r[-10:]) / 10 for r in rollouts) / len(rollouts))
            normalised.append(last[-1] / cell.optimal[task])
            stated = record["per_task"][task]
            assert stated["normalised_last10"] == pytest.approx(normalised[-1], rel=1e-12)
            assert (stated["task_id"], tuple(stated["goal"])) == (cell.task_ids[task], cell.goals[task])
            assert stated["optimum"] == cell.optimal[task]
        assert record["return_first_episode"] == pytest.approx(math.fsum(first) / 8, rel=1e-12)
        assert record["return_last10"] == pytest.approx(math.fsum(last) / 8, rel=1e-12)
        assert record["normalised_last10"] == pytest.approx(math.fsum(normalised) / 8, rel=1e-12)
        assert record["status"] == "done"
        assert record["state_bytes"] == cell.state_bytes
        assert record["train_seconds"] == cell.train_seconds
        assert record["evaluation_steps_per_second"] == cell.evaluation_steps_per_second
    ad, *compressed = written
    assert (ad["model"], ad["window"], ad["max_compression_depth"], ad["n_latent"]) == ("ad", 80, None, None)
    assert [(c["window"], c["max_compression_depth"], c["n_latent"], c["seed"]) for c in compressed] == [
        (40, 1, 4, 0), (40, 1, 16, 0), (40, 3, 4, 0), (40, 3, 16, 0)
    ]  # fmt: skip
    assert compressed[0]["compressions"] == 25


def test_fewer_than_ten_episodes_are_all_averaged_and_said(
    report: Callable[..., dict[str, Any]], cell: Make
) -> None:
    short = cell(shape=(3, 2, 6))
    written = report([short])
    expected = (short.returns.mean(axis=(1, 2)) / np.array(short.optimal)).mean()
    assert written["cells"][0]["normalised_last10"] == pytest.approx(expected, rel=1e-12)
    assert "all 6 episodes" in written["headline"]
    assert any("Only 6 episodes" in line for line in written["notices"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_return_fails_its_cell_and_no_other(
    report: Callable[..., dict[str, Any]], cell: Make, bad: float
) -> None:
    good, broken = cell(seed=0), cell(seed=1)
    broken.returns[2, 3, 4] = bad
    written = report([good, broken])
    status = written["cells"][1]["status"]
    assert status.startswith("failed: ")
    assert f"task {broken.task_ids[2]}, roll-out 4, episode 5" in status
    assert written["cells"][1]["normalised_last10"] is None
    assert written["cells"][1]["per_task"] == []
    # the mean of the model is the good seed's alone, and the gap is in the open
    table = written["tables"]["depth_latents"]
    row = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert row["normalised_last10"] == written["cells"][0]["normalised_last10"]
    assert (row["n_seeds"], row["n_cells"]) == (1, 2)
    assert "[1 of 2 seeds]" in written["headline"]
    assert any("seed 1: failed" in line for line in written["notices"])


def test_missing_and_failed_cells_enter_no_mean_even_with_returns(cell: Make) -> None:
    cells = [
        cell(0.9, seed=0),
        cell(0.1, seed=1, status="failed: out of memory"),
        cell(seed=2, status="missing"),
    ]
    study = make_study("s", "", "", cells, None)
    (model,) = study.models
    assert model.score == study.cells[0].normalised_last10
    assert [c.status for c in model.cells] == ["done", "failed: out of memory", "missing"]
    assert notices(study) == [
        "2 of 3 cells are missing, failed or pruned and in no mean:",
        "CompressedAD, depth 3, 16 latents, seed 1: failed: out of memory",
        "CompressedAD, depth 3, 16 latents, seed 2: missing",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"returns": None}, "no returns"),
        ({"returns": np.zeros((8, 8))}, "shape"),
        ({"optimal": (1.0,)}, "1 optima"),
        ({"optimal": (0.0,) * 8}, "optimum of task"),
    ],
)
def test_unusable_results_are_failures(cell: Make, changes: dict[str, Any], message: str) -> None:
    study = make_study("s", "", "", [cell(**changes)], None)
    assert study.cells[0].status.startswith("failed: ")
    assert message in study.cells[0].status


def test_the_same_cell_twice_is_refused(cell: Make) -> None:
    with pytest.raises(CadError, match="same seed"):
        make_study("s", "", "", [cell(seed=1), cell(seed=1)], None)


def test_seeds_are_averaged_after_tasks_and_settings_never_mixed(cell: Make) -> None:
    other = cell(seed=1)
    train = other.config.train.model_copy(update={"learning_rate": 1e-4})
    other = dataclasses.replace(other, config=other.config.model_copy(update={"train": train}))
    study = make_study("s", "", "", [cell(0.5, seed=0), cell(0.9, seed=1), other], None)
    assert [len(model.cells) for model in study.models] == [2, 1]
    scores = [c.normalised_last10 for c in study.cells]
    assert study.models[0].score == pytest.approx((scores[0] + scores[1]) / 2)
    panels = grid_panels(study)
    assert [panel.title for panel in panels] == [
        "CompressedAD, train.learning_rate=0.004", "CompressedAD, train.learning_rate=0.0001"
    ]  # fmt: skip


def test_headline_names_best_and_reference(quickstart: list[CellResult]) -> None:
    study = make_study("s", "", "", quickstart, None)
    best = max(cell.normalised_last10 for cell in study.cells[1:])
    reference = study.cells[0].normalised_last10
    assert headline(study) == (
        f"Best CompressedAD (window 40, depth 3, 16 latents) reaches {best:.2f} of the optimum over the last "
        f"10 of 50 episodes on 8 held-out goals; AD with window 80 reaches {reference:.2f}."
    )


def test_unequal_tasks_are_not_compared(report: Callable[..., dict[str, Any]], cell: Make) -> None:
    written = report([cell(kind="ad", window=80), cell(shape=(4, 8, 50))])
    assert "not compared" in written["headline"]
    assert any("2 different sets" in line for line in written["notices"])
    assert not any(written["sentences"].values())


def test_source_is_normalised_by_the_optimum_of_its_own_task(
    report: Callable[..., dict[str, Any]], cell: Make, source: SourceCurve
) -> None:
    swapped = SourceCurve(source.task_ids[::-1], source.returns[::-1])
    a, b = report([cell()], source), report([cell()], swapped)
    column = [row[1] for row in a["tables"]["source"]["rows"]]
    assert column == pytest.approx(0.97 * (1 - np.exp(-np.arange(50) * 0.12)))
    assert column == pytest.approx([row[1] for row in b["tables"]["source"]["rows"]])


def test_fingerprint_ignores_timings_and_nothing_else(
    report: Callable[..., dict[str, Any]], cell: Make
) -> None:
    def of(one: CellResult) -> str:
        return report([one])["fingerprint"]

    base = of(cell())
    assert of(cell(train_seconds=1.0, evaluation_seconds=2.0, evaluation_steps_per_second=3.0)) == base
    moved = cell()
    moved.returns[0, 0, 20] += 1  # outside first and last ten episodes
    assert of(moved) != base
    assert of(cell(state_bytes=1)) != base
    lines = [dict(line) for line in cell().metrics]
    lines[3]["loss"] += 1e-12
    assert of(cell(metrics=lines)) != base
    lines = [dict(line, seconds=1.5) for line in cell().metrics]
    assert of(cell(metrics=lines)) == base


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
    actual = [dict(zip(table["columns"], values, strict=True)) for values in table["rows"]]
    assert [d["label"] for d in actual] == [f"CompressedAD, depth {k}, 16 latents" for k in (1, 3)]
    p_values = []
    for d in actual:
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
    assert sorted(d["p_holm"] for d in actual) == pytest.approx(
        sorted([min(1, 2 * low), max(high, min(1, 2 * low))])
    )
    curve = [row for row in written["tables"]["return_by_episode"]["rows"]
             if row[0] == "AD, window 80" and row[1] == "mean"]  # fmt: skip
    for _, _, episode, value, low, high in curve:
        again = mean([mean(scores("AD, window 80", seed, episode - 1, episode)) for seed in range(5)])
        assert value == pytest.approx(again, rel=1e-9) and low <= value <= high

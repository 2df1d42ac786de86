"""Numbers in report.json against an independent computation; what counts and what does not."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from cad.errors import CadError
from cad.reports import CellResult, Provenance, SourceCurve
from cad.reports.aggregate import grid_panels, make_study
from cad.reports.page import report_json
from cad.reports.style import spread, wrap
from cad.reports.tables import data_tables
from cad.reports.wording import headline, notices

Make = Callable[..., CellResult]


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
    # the mean of the group is the good seed's alone, and the gap is in the open
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
    (group,) = study.groups
    assert group.score == study.cells[0].normalised_last10
    assert [c.status for c in group.cells] == ["done", "failed: out of memory", "missing"]
    assert notices(study) == [
        "2 of 3 cells are missing or failed and in no mean:",
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
    assert [len(group.cells) for group in study.groups] == [2, 1]
    scores = [c.normalised_last10 for c in study.cells]
    assert study.groups[0].score == pytest.approx((scores[0] + scores[1]) / 2)
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


def test_labels_are_moved_apart_and_wrapped() -> None:
    placed = spread([0.5, 0.51, 0.9, 0.5], 0.1)
    ordered = sorted(placed)
    assert min(b - a for a, b in pairwise(ordered)) >= 0.1 - 1e-9
    assert placed[2] == pytest.approx(0.9)
    assert wrap("CompressedAD, depth 3, 16 latents", 28) == "CompressedAD, depth 3,\n16 latents"
    assert len(wrap("x" * 500, 20).splitlines()) <= 3

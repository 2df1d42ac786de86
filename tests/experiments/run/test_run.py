"""`cad run`: from nothing to a report, again, inline, with a cell that fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from cad.evaluation.results import load_results


def report_of(root: Path) -> dict:
    return json.loads((root / "small" / "report" / "report.json").read_text())


def test_report_has_every_cell(finished):
    cells = report_of(finished)["cells"]
    assert [(c["model"], c["max_compression_depth"], c["status"]) for c in cells] == [
        ("ad", None, "done"),
        ("compressed_ad", 0, "done"),
        ("compressed_ad", 2, "done"),
    ]
    assert (finished / "small" / "report" / "report.html").stat().st_size > 10_000


def test_report_equals_stored_returns(finished):
    record = json.loads((finished / "small" / "experiment.json").read_text())
    for cell, reported in zip(record["cells"], report_of(finished)["cells"], strict=True):
        evaluation = next(name for name in cell["stages"] if name.startswith("evaluate"))
        stored = load_results(finished / "stages" / evaluation / "returns.h5")
        optimum = []
        for task in stored.task_ids:
            row, column = divmod(task, 5)
            optimum.append(10 + 1 - max(1, abs(row - 2) + abs(column - 2)))
        last = stored.returns.astype(float).mean(axis=1).mean(axis=1)  # six episodes: fewer than ten
        assert reported["normalised_last10"] == pytest.approx(np.mean(last / np.array(optimum)))
        assert [t["task_id"] for t in reported["per_task"]] == list(stored.task_ids)


def test_running_again_does_nothing_new(cad, small, copy):
    before = {p: p.stat().st_mtime_ns for p in (copy / "stages").glob("*/DONE")}
    fingerprint = report_of(copy)["fingerprint"]
    (figures,) = copy.glob("small/report/figures")
    assert {file.suffix for file in figures.iterdir()} == {".png", ".pdf"}
    again = cad("run", small, "--root", copy, "--no-figures")
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in (copy / "stages").glob("*/DONE")} == before
    assert report_of(copy)["fingerprint"] == fingerprint
    # Figures of the earlier report would be of other results.
    assert not list(figures.iterdir())
    assert "For paper" not in (copy / "small/report/report.html").read_text()
    assert "figures/" not in (copy / "small/report/report.md").read_text()


def test_a_failing_cell_is_reported_and_the_others_finish(cad, small, collected, tmp_path):
    settings = yaml.safe_load(small.read_text())
    settings["arms"] = [
        {"name": "good", "set": {"model.kind": "ad", "train.n_updates": 10}},
        {
            "name": "bad",
            "set": {"model.kind": "ad", "train.learning_rate": 1e9, "train.num_warmup_steps": 0},
        },
    ]
    settings["base"]["train"]["validate_every"] = 0
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(settings))
    done = cad("run", file, "--root", collected, "--no-figures")
    assert done.returncode == 1
    assert "training diverged" in done.stderr and "train.learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
    cells = report_of(collected)["cells"]
    assert cells[0]["status"] == "done"
    assert cells[1]["status"].startswith("failed") and cells[1]["normalised_last10"] is None

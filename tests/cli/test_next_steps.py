"""What commands say about what is not done, and with which command one goes on."""

from __future__ import annotations

import json
from pathlib import Path

from forked import run_cli

from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.plan.job_records import JobNote, write_job_note

SMALL = Path(__file__).parents[2] / "examples/small.yaml"


def test_a_report_of_what_is_not_done_says_so(tmp_path: Path) -> None:
    done = run_cli(["report", str(SMALL), "--root", str(tmp_path), "--no-figures"], tmp_path)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first == "not done: 2 of 2 cells, which the report names" and last.startswith("report: ")


def test_a_report_with_results_does_not_give_way_to_one_without(tmp_path: Path) -> None:
    """As of settings that never ran: the folder is named by the experiment alone."""
    report = tmp_path / "small/report/report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"cells": [{"status": "done"}, {"status": "missing"}]}))
    before = report.read_bytes()
    words = ["report", str(SMALL), "base.train.n_updates=77", "--root", str(tmp_path), "--no-figures"]
    refused = run_cli(words, tmp_path)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "none of the 2 cells is done with these settings" in refused.stderr
    assert "has results of 1: it is kept" in refused.stderr
    assert report.read_bytes() == before and list(report.parent.iterdir()) == [report]


def test_status_ends_with_how_to_go_on(tmp_path: Path) -> None:
    words = ["status", str(SMALL), "--root", str(tmp_path)]
    nowhere = {"PATH": str(tmp_path)}  # no Slurm to ask
    before = run_cli(words, tmp_path, environment=nowhere)
    assert before.returncode == 3 and "cad retry" not in before.stdout
    stage = open_experiment(SMALL, [], tmp_path).cells[0].stages[0]
    directory = StageDirectory(tmp_path, stage.name)
    directory.path.mkdir(parents=True)
    directory.file(StageFile.FAILED).write_text(json.dumps({"message": "it failed"}))
    write_job_note(
        directory.file(StageFile.JOB), JobNote("7", "n", "small", "me", "small/jobs/1-slurm", 0, 1, 1)
    )
    after = run_cli(words, tmp_path, environment=nowhere)
    assert after.returncode == 1, after.stderr
    assert after.stdout.splitlines()[-1] == f"then: cad retry {SMALL} --root {tmp_path}"

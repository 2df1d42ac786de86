"""`cad run`: from nothing to a report, again, killed in the middle, twice at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from cad.evaluation.results import load_results


def report_of(root: Path) -> dict:
    return json.loads((root / "small" / "report" / "report.json").read_text())


def start(small: Path, root: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cad.cli", "run", str(small), "--root", str(root), *words]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


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


def test_running_again_does_nothing_new(cad, small, finished):
    before = {p: p.stat().st_mtime_ns for p in (finished / "stages").glob("*/DONE")}
    fingerprint = report_of(finished)["fingerprint"]
    again = cad("run", small, "--root", finished)
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in (finished / "stages").glob("*/DONE")} == before
    assert report_of(finished)["fingerprint"] == fingerprint


def test_inline_gives_the_same_numbers(cad, small, finished, tmp_path):
    inline = cad("run", small, "--root", tmp_path, "--inline")
    assert inline.returncode == 0, inline.stderr
    assert report_of(tmp_path)["fingerprint"] == report_of(finished)["fingerprint"]


def test_killed_at_random_moments_ends_with_the_same_numbers(small, finished, tmp_path):
    moments = random.Random(5)
    for _ in range(3):
        process = start(small, tmp_path, "--workers", "2")
        try:
            process.wait(timeout=moments.uniform(3, 12))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the runner and all its workers, without a word
        process.communicate()
    process = start(small, tmp_path, "--workers", "2")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    assert report_of(tmp_path)["fingerprint"] == report_of(finished)["fingerprint"]
    for metrics in (tmp_path / "stages").glob("train-*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
        assert steps == [0, *range(5, 121, 5)]


def test_interrupt_saves_and_second_run_is_refused_meanwhile(cad, small, finished, tmp_path):
    process = start(small, tmp_path, "--workers", "2")
    deadline = time.time() + 120
    while not list((tmp_path / "stages").glob("train-*/progress.json")) and time.time() < deadline:
        time.sleep(0.05)
    second = cad("run", small, "--root", tmp_path)
    assert second.returncode == 1
    assert "is in use by process" in second.stderr
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130), errors.decode()
    assert b"Traceback" not in errors
    if process.returncode == 130:
        assert b"run the same command again to go on" in errors
    third = cad("run", small, "--root", tmp_path)
    assert third.returncode == 0, third.stderr
    assert report_of(tmp_path)["fingerprint"] == report_of(finished)["fingerprint"]


def test_workers_end_when_their_runner_is_killed(small, tmp_path):
    process = start(small, tmp_path, "--workers", "2")
    deadline = time.time() + 120
    while not list((tmp_path / "stages").glob("train-*/.lock")) and time.time() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    deadline = time.time() + 30
    while time.time() < deadline and _members(process.pid):
        time.sleep(0.2)
    assert not _members(process.pid)


def _members(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_failing_cell_is_reported_and_the_others_finish(cad, small, tmp_path):
    settings = yaml.safe_load(small.read_text())
    settings["arms"] = [
        {"name": "good", "set": {"model.kind": "ad", "train.n_updates": 10}},
        {
            "name": "bad",
            "set": {"model.kind": "ad", "train.learning_rate": 1e30, "train.num_warmup_steps": 0},
        },
    ]
    settings["base"]["train"]["validate_every"] = 0
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(settings))
    done = cad("run", file, "--root", tmp_path / "runs")
    assert done.returncode == 1
    assert "training diverged" in done.stderr and "train.learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
    cells = report_of(tmp_path / "runs")["cells"]
    assert cells[0]["status"] == "done"
    assert cells[1]["status"].startswith("failed") and cells[1]["normalised_last10"] is None

"""What a run makes of a stage whose process has ended."""

from __future__ import annotations

import shutil

import pytest

from cad.experiments.plan.cells import Cell
from cad.experiments.run.resources import Resources
from cad.experiments.run.runner import Run
from cad.experiments.run.table import run_table, used
from cad.schema import Config


@pytest.mark.parametrize(
    ("kind", "saved", "note", "says"),
    [
        ("train", ["00000050", "00000120"], "", "saved at update 120"),
        ("train", [], "", "it had saved nothing yet"),
        ("histories", [], '{"done": 7, "total": 81}', "7 of 81 tasks are kept"),
        ("evaluate", [], "", "it had saved nothing yet"),
    ],
)
def test_a_stage_that_was_asked_to_stop_is_stopped_and_not_failed(
    kind, saved, note, says, tmp_path, monkeypatch
):
    run = Run(tmp_path, (Cell("", "", Config()),))
    entry = next(entry for entry in run.stages.values() if entry.stage.kind == kind)
    for name in saved:
        (entry.directory.path / "checkpoints" / name).mkdir(parents=True)
    entry.directory.path.mkdir(parents=True, exist_ok=True)
    if note:
        (entry.directory.path / "progress.json").write_text(note)
    run.settle(entry, stopped=True)
    assert (entry.state, entry.message) == ("stopped", says)
    assert run.failures == []
    assert run_table(run, 80)
    run.settle(entry)
    assert entry.state == "failed" and "without reporting an error" in entry.message
    assert "out of memory" in entry.message and "free" not in entry.message
    run.settle(entry, log=tmp_path / "a.log")
    assert entry.message.endswith(f"; its log is {tmp_path / 'a.log'}")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: usage._replace(free=2**19))
        run.settle(entry)
    assert "is full or nearly full (0.5 MiB are free); free some space" in entry.message
    run.settle(entry, why="no permission to write there")
    assert (entry.state, entry.message) == ("failed", "no permission to write there")
    entry.directory.record_failure("out of memory", expected=True)
    run.settle(entry, stopped=True)
    assert (entry.state, entry.message) == ("failed", "out of memory")


@pytest.mark.parametrize(("kind", "cores"), [("train", 3), ("histories", 2)])
def test_what_a_failed_stage_took_is_used_and_a_pack_shares_its_cores(kind, cores, tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("cad.experiments.run.runner.time.time", lambda: now)
    run = Run(tmp_path, (Cell("", "", Config()),))
    assert used(run) == ""
    entry = next(entry for entry in run.stages.values() if entry.stage.kind == kind)
    entry.begin(Resources(workers=2, threads=3), members=2)
    now += 3600
    entry.directory.path.mkdir(parents=True)
    entry.directory.record_failure("out of memory", expected=True)
    run.settle(entry)
    assert used(run) == f"{cores / 2:g} core-hours ({kind} {cores / 2:g})"
    entry.directory.finish({"wall_seconds": 7200.0, "cores": 1})
    run.settle(entry)
    assert used(run) == f"2 core-hours ({kind} 2)"

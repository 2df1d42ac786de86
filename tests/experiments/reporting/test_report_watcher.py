"""Looking at an experiment while it runs: `cad report --watch`, `cad tensorboard`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from forked import StartedCli

from cad.errors import CadError
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.reporting.report_watcher import keep_reporting
from cad.experiments.reporting.tensorboard import link_boards
from cad.experiments.run.attempt import StageAttempt
from cad.interrupt import InterruptedRun, StopFlag


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """The small experiment with the evaluations' DONE markers put aside."""
    root = tmp_path / "runs"
    shutil.copytree(finished, root)
    for marker in (root / "stages").glob("evaluate-*/DONE"):
        marker.rename(marker.with_name("aside"))
    return root


def finish(folder: Path) -> None:
    (folder / "aside").rename(folder / "DONE")


def test_writes_when_something_moved_and_ends_with_the_last_cell(small, unfinished):
    experiment = open_experiment(small, [], unfinished)
    first, second, third = [StageDirectory(unfinished, cell.evaluation.name) for cell in experiment.cells]
    said: list[str] = []
    written: list[int] = []

    def write() -> None:
        # What happens while the report is written: a stage ends, one fails, one moves, the last ends.
        written.append(len(said))
        if len(written) == 1:
            finish(first.path)
        elif len(written) == 2:
            second.record_failure("out of memory", expected=False)
        elif len(written) == 3:
            StageAttempt(unfinished, experiment.cells[2].evaluation).report(3, 6)
        elif len(written) == 4:
            finish(third.path)

    keep_reporting(experiment, write, 0.01, StopFlag(), said.append)
    assert said == [f"{n} of 3 cells have ended" for n in (0, 1, 2, 2, 3)]
    assert len(written) == 5


def test_a_stop_ends_the_watch(small, unfinished):
    stop = StopFlag()
    with pytest.raises(InterruptedRun, match="watching stopped"):
        keep_reporting(open_experiment(small, [], unfinished), stop.request, 60, stop, lambda _: None)


def test_the_command_rewrites_and_ends(small, finished, unfinished):
    words = ["report", str(small), "--root", str(unfinished), "--watch", "--every", "0.1", "--no-figures"]
    with StartedCli(words) as child:
        deadline = time.monotonic() + 400
        while not child.stdout and time.monotonic() < deadline:
            time.sleep(0.01)
        assert child.stdout == "0 of 3 cells have ended\n"
        early = json.loads((unfinished / "small/report/report.json").read_text())
        assert early["headline"] == "No result yet: of 3 cells, none is done, 0 failed."
        assert "Unfinished: 4 of 7 stages are done, 0 failed, 3 missing." in early["notices"]
        for folder in (unfinished / "stages").glob("evaluate-*"):
            finish(folder)
        done = child.wait(400)
    assert done.returncode == 0, done.stderr
    *_, last, where = done.stdout.splitlines()
    assert last == "3 of 3 cells have ended"
    assert where.startswith("report: ")
    late, wanted = (
        json.loads((root / "small/report/report.json").read_text()) for root in (unfinished, finished)
    )
    assert late["fingerprint"] == wanted["fingerprint"]
    assert not any("Unfinished" in notice for notice in late["notices"])


def with_arms(small: Path, folder: Path, arms: list[dict[str, object]]) -> Path:
    settings = yaml.safe_load(small.read_text())
    file = folder / "other.yaml"
    file.write_text(yaml.safe_dump(settings | {"arms": arms}))
    return file


def test_boards_have_the_names_of_cells(small, finished, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(finished, root)
    arms = yaml.safe_load(small.read_text())["arms"]
    arms[0]["name"] = "A/D"
    experiment = open_experiment(with_arms(small, tmp_path, arms), [], root)
    folder = link_boards(experiment)
    assert sorted(path.name for path in folder.iterdir()) == [
        "A D, seed 0", "CompressedAD, depth 0, seed 0", "CompressedAD, depth 2, seed 0",
    ]  # fmt: skip
    assert all(list(path.glob("events.out.tfevents.*")) for path in folder.iterdir())
    assert not any(path.readlink().is_absolute() for path in folder.iterdir())
    # Names that are gone go; those that stay are left alone; what has not begun is there already.
    (folder / "mine.txt").write_text("somebody's own")
    link_boards(open_experiment(small, ["seeds=[0,1]"], root))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["mine.txt", *(f"{label}, seed {seed}" for seed in (0, 1)
         for label in ("AD", "CompressedAD, depth 0", "CompressedAD, depth 2"))]
    )  # fmt: skip
    assert not (folder / "AD, seed 1").exists() and (folder / "AD, seed 1").is_symlink()


def test_cells_that_share_a_pretraining_show_it_once_and_like_names_stay_apart(small, tmp_path):
    one = {"model.kind": "compressed_ad", "pretrain.enabled": True}
    arms = [
        {"name": "x:y", "set": one},
        {"name": "x/y", "set": one | {"train.learning_rate": 0.02}},
        {"name": "x y", "set": one | {"train.learning_rate": 0.03}},
    ]
    experiment = open_experiment(with_arms(small, tmp_path, arms), [], tmp_path)
    names = sorted(path.name for path in link_boards(experiment).iterdir())
    third = experiment.cells[2].training.name
    assert names == [
        "x y, seed 0", f"x y, seed 0, {third}", "x:y, seed 0", "x:y, seed 0, pretraining it starts from",
    ]  # fmt: skip


def test_a_file_in_the_way_of_the_boards(small, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "tensorboard").write_text("a file")
    with pytest.raises(CadError, match="tensorboard"):
        link_boards(open_experiment(small, [], tmp_path))


def test_tensorboard_shows_the_runs(small, finished, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(finished, root)
    command = [sys.executable, "-m", "cad.cli", "tensorboard", str(small), "--root", str(root), "--port", "0"]
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        runs: list[str] = []
        deadline = time.time() + 400
        while len(runs) < 3 and time.time() < deadline and process.poll() is None:
            time.sleep(0.3)
            if actual := re.search(r"http://localhost:\d+/", log.read_text()):
                with urllib.request.urlopen(f"{actual[0]}data/runs", timeout=60) as answer:
                    runs = json.load(answer)
        assert sorted(runs) == [
            "AD, seed 0",
            "CompressedAD, depth 0, seed 0",
            "CompressedAD, depth 2, seed 0",
        ], log.read_text()
    finally:
        process.terminate()
        process.wait(timeout=30)

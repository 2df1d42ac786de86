"""``cad logs``: the log of a cell's job, once or as it grows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.plan.job_records import JobNote

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log of the first cell's training, which has begun."""
    training = open_experiment(QUICKSTART, [], tmp_path).cells[0].training.name
    note = JobNote("12_3", "cad-quickstart-train", "quickstart", "me", "quickstart/jobs/1", 0.0, 1.0, 1.0)
    (tmp_path / "stages" / training).mkdir(parents=True)
    StageDirectory(tmp_path, training).note_job(note)
    path = note.log(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text("first line\n")
    return path


def logs(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "cad.cli", "logs", str(QUICKSTART), "1", "--root", str(root), *words]


def test_the_log_as_it_is(log: Path, tmp_path: Path) -> None:
    done = subprocess.run(logs(tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout == "first line\n" and done.stderr == f"{log}:\n"


def test_follow_goes_on_as_the_log_grows_and_ends_with_the_stage(log: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(logs(tmp_path, "--follow"), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "first line\n"
        with log.open("a") as file:
            file.write("second line\n")
        assert process.stdout.readline() == "second line\n"
        assert process.poll() is None
        (stage,) = (tmp_path / "stages").iterdir()
        StageDirectory(tmp_path, stage.name).finish({})
        assert process.wait(30) == 0
    finally:
        process.terminate()
        process.wait(30)


def test_a_stage_without_a_log(log: Path, tmp_path: Path) -> None:
    done = subprocess.run(logs(tmp_path, "--stage", "evaluate"), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "has no log of a Slurm job yet" in " ".join(done.stderr.split())
    assert log.exists()

"""A training that falls behind on validation tasks is ended early; what it saved stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from cad.cluster.table import cell_statuses, exit_code, problems
from cad.evaluation.results import load_results
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.run.pruning import Pruning, pruned_stages
from cad.schema import Prune
from cad.storage import write_text
from cad.training.metrics import read_metrics


@pytest.mark.parametrize(
    ("update", "best", "ends"),
    [
        (60, 0.59, True),  # the other had 0.8 at 60
        (60, 0.61, False),
        (20, 0.0, False),  # before half of the updates
        (50, 0.31, True),  # the other had 0.6 until then
        (50, 0.45, False),
    ],
)
def test_compared_with_others_after_as_many_updates(tmp_path, update, best, ends):
    metrics = [{"step": 40, "validation_return": 0.6}, {"step": 50, "loss": 1.0}]
    metrics += [{"step": 60, "validation_return": 0.8}, {"step": 100, "validation_return": 1.0}]
    folder = tmp_path / "stages/train-a"
    folder.mkdir(parents=True)
    write_text(folder / "metrics.jsonl", "".join(f"{json.dumps(record)}\n" for record in metrics))
    pruning = Pruning(tmp_path, Prune(behind=0.2, after=0.5), ("train-a", "train-b", "train-c"))
    why = pruning.verdict("train-b", update, 100, best)
    assert (why is not None) == ends
    assert why is None or f"{best:.3f} after {update} of 100 updates, where train-a had" in why
    # Nobody is behind itself, or behind one of which nothing is known.
    assert (
        Pruning(tmp_path, Prune(behind=0.2), ("train-a", "train-c")).verdict("train-a", 60, 100, 0.0) is None
    )


@pytest.mark.parametrize("text", [b"\0" * 40 + b"\n", b"{}\n"])
def test_metrics_of_another_that_cannot_be_read_end_nothing(tmp_path, text):
    """A network file system may show zeros where another node is writing."""
    folder = tmp_path / "stages/train-a"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(text)
    assert (
        Pruning(tmp_path, Prune(behind=0.2), ("train-a", "train-b")).verdict("train-b", 60, 100, 0.0) is None
    )


def returns(root: Path, name: str) -> float:
    return next(
        record["validation_return"]
        for record in read_metrics(StageDirectory(root, name).file(StageFile.METRICS))
        if "validation_return" in record
    )


@pytest.fixture
def behind(small: Path, copy: Path, tmp_path: Path) -> tuple[Path, str]:
    """An experiment with ``prune``, and its worse training, which is to run again."""
    cells = open_experiment(small, [], copy).cells
    scores = {cell.training.name: returns(copy, cell.training.name) for cell in cells}
    worst = min(scores, key=scores.__getitem__)
    ahead = max(scores.values()) - scores[worst]
    assert ahead > 0.01  # else there is nothing to see; deterministic on one machine
    settings = yaml.safe_load(small.read_text(encoding="utf-8"))
    file = tmp_path / "pruned.yaml"
    write_text(file, yaml.safe_dump(settings | {"prune": {"behind": ahead / 2, "after": 0.25}}))
    for cell in cells:
        if cell.training.name == worst:
            shutil.rmtree(copy / "stages" / worst)
            shutil.rmtree(copy / "stages" / cell.evaluation.name)
    return file, worst


def test_pruned_named_left_alone_and_taken_up_again(cad, behind, copy, finished):
    file, worst = behind
    directory = StageDirectory(copy, worst)
    done = cad("run", file, "--root", copy, "--inline", "--no-figures")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pruned: train: " in done.stdout and "its best validation return is" in done.stdout
    assert directory.pruned() and not directory.done and directory.saved_update() == 60
    experiment = open_experiment(file, [], copy)
    evaluation = next(c.evaluation.name for c in experiment.cells if c.training.name == worst)
    assert pruned_stages(experiment) == {worst, evaluation}
    report = (copy / "small/report/report.md").read_text(encoding="utf-8")
    assert "pruned: its best validation return is" in report
    cells = cell_statuses(experiment)
    assert exit_code(cells) == 0
    assert [line.partition(":")[0] for line in problems(cells)] == [f"{worst} pruned"]
    assert exit_code(cell_statuses(open_experiment(file, ["prune=null"], copy))) == 3  # still to come
    again = cad("run", file, "--root", copy, "--inline", "--no-report")
    assert again.returncode == 0 and directory.saved_update() == 60
    # Without the rule it goes on from what it saved, to the same model.
    on = cad("run", file, "prune=null", "--root", copy, "--inline", "--no-report")
    assert on.returncode == 0, on.stdout + on.stderr
    assert directory.done and directory.pruned() is None
    model = StageFile.MODEL
    assert directory.file(model).read_bytes() == StageDirectory(finished, worst).file(model).read_bytes()
    ours, theirs = (load_results(root / "stages" / evaluation / "returns.h5") for root in (copy, finished))
    assert np.array_equal(ours.returns, theirs.returns)


def test_without_validation_there_is_nothing_to_compare(cad, small, tmp_path):
    words = ["prune={behind: 0.1}", "base.train.validate_every=0"]
    done = cad("run", small, *words, "--root", tmp_path, "--dry-run")
    assert done.returncode == 2 and "train.validate_every=0 measures none" in done.stderr

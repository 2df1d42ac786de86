"""`cad run --pack`: several trainings in a process, each stage as if it ran alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from later_stop import LaterStop

from cad.cluster import worker
from cad.cluster.jobs import CANCELLED
from cad.cluster.script import NOT_READY
from cad.errors import CadError, UsageError
from cad.evaluation.results import load_results
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import Experiment, open_experiment
from cad.experiments.run.job import run_or_record
from cad.experiments.run.local_run import dry_run_text
from cad.experiments.run.pack_plan import planned_packs
from cad.experiments.run.pack_size import local_limit, pack_size, size_within, training_bytes
from cad.experiments.run.packs import run_pack
from cad.experiments.run.resources import Resources
from cad.experiments.run.runner import Run
from cad.experiments.run.training_stages import prepare_training
from cad.interrupt import InterruptedRun, StopFlag
from cad.locks import folder_lock
from cad.training.learner import build_model
from cad.training.metrics import read_metrics


@pytest.fixture(scope="module")
def seeds(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of an arm, a model of their shape that diverges, and a longer training of another shape."""
    settings = yaml.safe_load(small.read_text(encoding="utf-8"))
    settings["base"]["train"] |= {"n_updates": 20, "validate_every": 10, "num_warmup_steps": 0}
    settings["arms"] = [
        {"name": "good", "set": {"model.kind": "ad", "train.learning_rate": 0.01}},
        {"name": "wild", "set": {"model.kind": "ad", "train.learning_rate": 1e9}, "seeds": [0]},
        {
            "name": "deep",
            "set": {"model.kind": "ad", "model.n_layer": 2, "train.n_updates": 25},
            "seeds": [0],
        },
    ]
    file = tmp_path_factory.mktemp("packs") / "packs.yaml"
    file.write_text(yaml.safe_dump(settings | {"name": "packs", "seeds": [0, 1, 2]}))
    return file


def statuses(root: Path) -> list[str]:
    report = json.loads((root / "packs" / "report" / "report.json").read_text())
    return [cell["status"] for cell in report["cells"]]


def close(a: Path, b: Path) -> None:
    """The metrics of two stages are equal but for rounding."""
    for x, y in zip(read_metrics(a / "metrics.jsonl"), read_metrics(b / "metrics.jsonl"), strict=True):
        assert x.keys() == y.keys()
        assert x.get("loss", 0.0) == pytest.approx(y.get("loss", 0.0), rel=1e-3)


def test_a_packed_run_has_the_results_of_a_single_one(cad, seeds, with_histories, tmp_path):
    packed, single = (with_histories(tmp_path / name) for name in ("packed", "single"))
    for words in ((packed, "--pack", "8", "--workers", "1", "--no-figures"), (single, "--no-report")):
        run = cad("run", seeds, "--root", *words)
        assert run.returncode == 1
        assert "1 of 11 stages failed" in run.stderr and "training diverged" in run.stderr
    opened = open_experiment(seeds, [], packed)
    good = [cell for cell in opened.cells if cell.config.train.learning_rate == 0.01]
    for cell in good:
        record = StageDirectory(packed, cell.training.name).record()
        assert record["pack"] == 4 and record["updates"] == 20 and record["attempts"] == 1
        assert "pack" not in StageDirectory(single, cell.training.name).record()
        close(*(StageDirectory(root, cell.training.name).path for root in (packed, single)))
        returns = [
            load_results(StageDirectory(root, cell.evaluation.name).path / "returns.h5").returns
            for root in (packed, single)
        ]
        assert np.mean(returns[0]) == pytest.approx(np.mean(returns[1]), abs=0.5)
    assert [status.partition(":")[0] for status in statuses(packed)] == ["done"] * 3 + ["failed", "done"]


def good_cells(seeds: Path, root: Path) -> Experiment:
    return open_experiment(seeds, ["base.train.n_updates=12"], root)


def test_a_pack_is_stopped_and_its_stages_go_on(seeds, collected):
    stages = [cell.training for cell in good_cells(seeds, collected).cells[:3]]
    directories = [StageDirectory(collected, stage.name) for stage in stages]
    with pytest.raises(InterruptedRun, match="training of 3 models together stopped"):
        run_pack(collected, stages, Resources(), LaterStop(7))
    assert [directory.saved_update() for directory in directories] == [7, 7, 7]
    assert not any(directory.done or directory.failure() for directory in directories)
    with folder_lock(directories[0].path, "another process"):
        busy = run_pack(collected, stages, Resources(), StopFlag())
    assert busy == stages[:1]
    assert [directory.done for directory in directories] == [False, True, True]
    run_or_record(collected, stages[0], Resources(), StopFlag())
    for directory in directories:
        assert directory.record()["attempts"] == 2
        assert directory.progress()["done"] == 12
        assert [line["step"] for line in read_metrics(directory.path / "metrics.jsonl")] == [0, 5, 10, 12]


def test_a_stage_that_cannot_begin_leaves_the_others(seeds, collected, monkeypatch):
    stages = [cell.training for cell in good_cells(seeds, collected).cells[:3]]

    def prepare(attempt, arrays):
        if attempt.stage is stages[1]:
            raise ValueError("a bug")
        return prepare_training(attempt, arrays)

    monkeypatch.setattr("cad.experiments.run.packs.prepare_training", prepare)
    assert run_pack(collected, stages, Resources(), StopFlag()) == []
    directories = [StageDirectory(collected, stage.name) for stage in stages]
    assert [(directory.done, directory.failure()) for directory in directories] == [
        (True, None), (False, "ValueError: a bug"), (True, None),
    ]  # fmt: skip
    assert not any(directory.locked() for directory in directories)


class Cancels(StopFlag):
    """Does to a stage what `cad cancel` does, when it is asked for the n-th time."""

    def __init__(self, directory: StageDirectory, after: int) -> None:
        super().__init__()
        self._directory, self._left = directory, after

    def __call__(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self._directory.record_failure(CANCELLED, expected=True)
        return super().__call__()


def test_a_stage_that_is_cancelled_is_saved_and_leaves_its_pack(seeds, collected, monkeypatch):
    monkeypatch.setattr("cad.experiments.run.packs._ASK_EVERY_SECONDS", 0.0)
    stages = [cell.training for cell in good_cells(seeds, collected).cells[:3]]
    directories = [StageDirectory(collected, stage.name) for stage in stages]
    run_pack(collected, stages, Resources(), Cancels(directories[1], 7))
    assert [directory.done for directory in directories] == [True, False, True]
    assert directories[1].failure() == CANCELLED and directories[1].saved_update() == 7
    assert not directories[1].locked()


def test_a_slurm_task_leaves_out_who_failed_before_and_who_cannot_begin(seeds, collected, tmp_path):
    stages = [cell.training for cell in good_cells(seeds, collected).cells[:4]]
    wild = stages[3]
    directories = [StageDirectory(collected, stage.name) for stage in stages]
    for _requeued in (False, True):
        with pytest.raises(CadError, match=f"1 of 4 trainings of this pack failed: {wild.name}"):
            worker._run_pack(collected, stages, Resources())
        assert [directory.done for directory in directories] == [True, True, True, False]
        assert {directory.progress()["attempt"] for directory in directories[:3]} == {1}
        assert "diverged" in directories[3].failure()
    # Memory is another matter: the next attempt may have more.
    directories[3].record_failure("MemoryError: ", expected=False)
    with pytest.raises(CadError, match=wild.name):
        worker._run_pack(collected, stages, Resources())
    assert "diverged" in directories[3].failure()
    with pytest.raises(SystemExit) as ended:
        worker._run_pack(tmp_path / "without histories", stages, Resources())
    assert ended.value.code == NOT_READY


def test_ready_trainings_of_one_shape_are_shared_by_the_workers(seeds, collected):
    opened = good_cells(seeds, collected)
    run = Run(collected, opened.cells)
    (deep,) = run.next_pack(8)  # the longest of another shape goes alone
    assert deep.stage.config.model.n_layer == 2
    deep.state = "running"
    names = {cell.training.name for cell in opened.cells} - {deep.stage.name}
    assert {entry.stage.name for entry in run.next_pack(8)} == names and len(names) == 4
    assert [len(run.next_pack(size, workers)) for size, workers in ((1, 1), (3, 1), (8, 2), (8, 3))] == [
        1, 3, 2, 2,
    ]  # fmt: skip
    lines = dry_run_text(opened, pack=3).splitlines()
    assert lines[-2] == "1 packs of up to 3 trainings of one shape, fewer where workers are idle"
    assert set(lines[-1].split()) < names and len(lines[-1].split()) == 3
    assert dry_run_text(opened).splitlines() == lines[:-2]


def test_auto_packs_as_many_as_memory_holds(seeds, collected):
    opened = good_cells(seeds, collected)
    stages = [cell.training for cell in opened.cells]
    one = training_bytes(stages[0].config)
    model = build_model(stages[0].config)
    assert one > 4 * 5 * sum(weight.numel() for weight in model.parameters())
    assert [size_within(stages[0].config, 8, room * one) for room in (0.0, 1.0, 3.5, 100.0)] == [1, 1, 3, 8]
    assert size_within(stages[0].config, 8, None) == 8
    assert [len(pack) for pack in planned_packs(stages, 8, 2.5 * one)] == [2, 2]
    assert planned_packs(stages, 8, one) == []
    run = Run(collected, opened.cells)
    run.next_pack(8)[0].state = "running"
    assert len(run.next_pack(8, memory=3.5 * one)) == 3
    most, memory = local_limit("auto", "cpu", 1)
    assert most == 64 and memory is not None and memory >= 0
    assert local_limit(3, "cpu", 1) == (3, None)


@pytest.mark.parametrize("word", ["0", "-1", "many", "2.5", ""])
def test_a_size_that_is_none_is_refused(word):
    with pytest.raises(UsageError, match=r"--pack .*: give a number from 1, or auto"):
        pack_size(word)
